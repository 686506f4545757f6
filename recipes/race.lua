-- SPDX-License-Identifier: Apache-2.0
--- The same question asked in several ways at once, each in a clone; the first good answer wins and the others vanish.
local fcvm = require "fcvm"

local args = fcvm.args({
  image = { "string", "image with what can answer" },
  ways = { "string", "a command to try, by /bin/sh; its output is the answer if it ends with 0", positional = 1, many = true,
    metavar = "COMMAND" },
  mem = { "size", "memory of a VM", default = 256 << 20 },
  timeout = { "number", "seconds that all of it may take", default = 600, metavar = "SECONDS" },
}, { report = false, description = "Tries commands in clones of one VM at once and prints the first good answer." })

if #args.ways == 0 then fcvm.errors.raise { op = "race", name = "EINVAL", message = "it needs commands to try" } end

local base = fcvm.run { image = args.image, name = "race", mem = args.mem, cpu = 1, cmd = { "/bin/sh", "-c", "sleep 2000000" } }
local snapshot = base:snapshot { tag = "race" }
base:stop()
fcvm.defer(function() snapshot:remove() end)
local server = snapshot:serve()

local answer = fcvm.timeout(args.timeout, function()
  return fcvm.first(args.ways, function(way, i)
    local clone = server:clone { name = "race-" .. i, env = { WAY = i } }
    local result = clone:exec { "/bin/sh", "-c", way }
    if result.status ~= 0 then error(("way %d ended with %d: %s"):format(i, result.status, result.stderr), 0) end
    fcvm.log.info("way %d won: %s", i, way)
    return result.stdout
  end)
end)
io.stdout:write(answer)
