-- SPDX-License-Identifier: Apache-2.0
--- Rounds of clones that start at once, answer and end: success rate, times, and what is left: `fcvm test stress`.
local fcvm = require "fcvm"

local args = fcvm.args({
  count = { "integer", "clones at once", default = 10 },
  rounds = { "integer", "rounds", default = 3 },
  image = { "string", "image of a web server", default = fcvm.paths.images() .. "/demo" },
  port = { "integer", "its HTTP port", default = 80 },
  mem = { "size", "memory of a VM", default = 256 << 20 },
  memory = { "string", "how clones get theirs: auto, uffd or file", default = "auto", metavar = "HOW" },
  limit = { "number", "seconds until a clone must be healthy", default = 180, metavar = "SECONDS" },
}, { description = "Starts clones round after round; exit status 0: all were healthy, answered, and left nothing." })

local base = fcvm.run { image = args.image, name = "stress-base", mem = args.mem, cpu = 1, health = { port = args.port } }
base:wait "healthy"
local snapshot = base:snapshot { tag = "stress" }
base:stop()
local server = snapshot:serve { memory = args.memory }
-- The first clone is recorded, so that all others find its working set.
server:clone({ name = "stress-first" }):wait("healthy"):stop()

local function one(round, i)
  local began = fcvm.now()
  local vm <close> = server:clone { name = ("stress-%d-%d"):format(round, i) }
  vm:wait("healthy", { timeout = args.limit })
  local seconds = fcvm.now() - began
  assert(vm:request({ port = args.port, timeout = 30 }).status == 200, "it did not answer 200")
  return seconds
end

local bar = fcvm.progress("clones", args.count * args.rounds)
local rows, failures = {}, {}
for round = 1, args.rounds do
  local times = {}
  for i, result in ipairs(fcvm.parallel(args.count, function(i)
    local seconds = one(round, i)
    bar:step()
    return seconds
  end, { on_error = "collect" })) do
    if result.ok then times[#times + 1] = result.value else
      failures[#failures + 1] = ("round %d, clone %d: %s"):format(round, i, tostring(result.error))
    end
  end
  table.sort(times)
  rows[round] = { round = round, clones = args.count, healthy = #times, p50 = times[(#times + 1) // 2],
    p95 = times[math.ceil(#times * 0.95)], most = times[#times] }
end
bar:done()
server:stop()
snapshot:remove()

fcvm.report { title = "stress", rows = rows, columns = { "round", "clones", "healthy", "p50", "p95", "most" } }
for _, failure in ipairs(failures) do fcvm.log.error("%s", failure) end
local left = {}
for _, record in ipairs((fcvm.state.scan())) do
  if record.name:match "^stress%-" or record.server == server.id then left[#left + 1] = record.name end
end
for _, leftover in ipairs(fcvm.sweep()) do left[#left + 1] = leftover end
if #left > 0 then fcvm.log.error("left behind: %s", table.concat(left, ", ")) end
local all = args.count * args.rounds
fcvm.log.info("%d of %d were healthy and answered (%.1f %%); %s is left", all - #failures, all, 100 * (all - #failures) / all,
  #left == 0 and "nothing" or "something")
return (#failures == 0 and #left == 0) and 0 or 1
