-- SPDX-License-Identifier: Apache-2.0
--- Warms an image once, runs every shard of a test in a clone of its own, and merges the results.
local fcvm = require "fcvm"

local args = fcvm.args({
  image = { "string", "image with the test in it" },
  prepare = { "string", "command that warms it, by /bin/sh", required = false, metavar = "COMMAND" },
  test = { "string", "command of a shard, by /bin/sh; gets SHARD and SHARDS", metavar = "COMMAND" },
  shards = { "integer", "shards", default = 4 },
  mem = { "size", "memory of a VM", default = 256 << 20 },
  timeout = { "number", "seconds that a shard may take", default = 900, metavar = "SECONDS" },
}, { description = "Tests in parallel clones of one warm VM; exit status 0 if all shards passed." })

local warm = fcvm.run { image = args.image, name = "ci", mem = args.mem, cpu = 1, cmd = { "/bin/sh", "-c", "sleep 2000000" } }
if args.prepare then
  local made = warm:exec { "/bin/sh", "-c", args.prepare, timeout = args.timeout }
  if made.status ~= 0 then
    fcvm.log.error("preparing ended with %d: %s", made.status, made.stderr)
    return made.status
  end
end
local snapshot = warm:snapshot { tag = "ci-warm" }
warm:stop()
fcvm.defer(function() snapshot:remove() end)
local server = snapshot:serve()

local shards = fcvm.parallel(args.shards, function(i)
  local clone = server:clone { name = "ci-" .. i, env = { SHARD = i, SHARDS = args.shards } }
  return clone:exec { "/bin/sh", "-c", args.test, timeout = args.timeout }
end, { on_error = "collect" })

local rows, failed = {}, 0
for i, shard in ipairs(shards) do
  local result = shard.ok and shard.value or { status = -1, stdout = "", stderr = tostring(shard.error) .. "\n" }
  io.stdout:write(result.stdout)
  io.stderr:write(result.stderr)
  if result.status ~= 0 then failed = failed + 1 end
  rows[i] = { shard = i, status = result.status, seconds = result.seconds }
end
fcvm.report { title = "ci", rows = rows, columns = { "shard", "status", "seconds" } }
return failed == 0 and 0 or 1
