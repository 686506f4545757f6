-- SPDX-License-Identifier: Apache-2.0
--- From the clone command to the first answer, for each way of memory, against the same sequence by bare commands, turn
-- about, and against a cold start; then many clones at once. Ratios hold, milliseconds do not.
local fcvm = require "fcvm"

local args = fcvm.args {
  rounds = { "integer", "clones of each kind, one after the other", default = 10 },
  fleet = { "integer", "clones at once, of each way of memory; 0 for none", default = 0 },
  image = { "string", "image of a web server", default = fcvm.paths.images() .. "/demo" },
  mem = { "size", "memory of a VM", default = 256 << 20 },
  bare = { "string", "the script of bare commands", default = "tests/bench/bare-clone.sh" },
}

local function median(list)
  table.sort(list)
  return list[(#list + 1) // 2]
end

local base = fcvm.run { image = args.image, cpu = 1, mem = args.mem, health = { port = 80, interval = 0.05 } }
base:wait "healthy"
local cold = base:state().stages.healthy
local snapshot = base:snapshot { tag = "bench" }
base:stop()
fcvm.defer(function() snapshot:remove() end)

-- What a user does: the command in a process of its own, and a request when it has returned.
local function by_command(server)
  local began = fcvm.now()
  local name = (fcvm.process.run { "fcvm", "snapshot", "run", "--pid", tostring(server.pid), "--detach", timeout = 120,
    contain = false }).stdout
  local vm <close> = fcvm.vm(name:match "%S+")
  local reply = vm:request { port = 80, timeout = 30 }
  local seconds = fcvm.now() - began
  assert(reply.status == 200)
  return seconds, vm:state().stages
end

local rows, servers = {}, {}
local times, stages = { bare = {} }, {}
for _, memory in ipairs { "uffd", "file", "auto" } do
  servers[memory], times[memory] = snapshot:serve { memory = memory }, {}
  -- Not measured: the clone that is recorded, and the page cache that fills.
  by_command(servers[memory])
  fcvm.sleep(2)
end
local bar = fcvm.progress("clones", 4 * args.rounds)
for round = 1, args.rounds do
  times.bare[round] = tonumber((fcvm.process.run { args.bare, fcvm.paths.data(), snapshot.directory, "80", "/",
    timeout = 300 }).stdout)
  bar:step()
  for memory, server in pairs(servers) do
    times[memory][round], stages[memory] = by_command(server)
    bar:step()
  end
end
bar:done()
local bare = median(times.bare)
rows[1] = { what = "cold start to healthy, s", value = cold }
rows[2] = { what = "bare commands, s", value = bare }
for _, memory in ipairs { "uffd", "file", "auto" } do
  local ours = median(times[memory])
  rows[#rows + 1] = { what = memory .. ", s", value = ours }
  rows[#rows + 1] = { what = memory .. ", of the bare commands (at most 1.5)", value = ours / bare }
  rows[#rows + 1] = { what = memory .. ", faster than a cold start (at least 8)", value = cold / ours }
  local names = {}
  for name in pairs(stages[memory]) do names[#names + 1] = name end
  table.sort(names, function(a, b) return stages[memory][a] < stages[memory][b] end)
  for _, name in ipairs(names) do
    rows[#rows + 1] = { what = ("  last one: at %s"):format(name), value = stages[memory][name] }
  end
end

for _, memory in ipairs(args.fleet > 0 and { "uffd", "file", "auto" } or {}) do
  local began = fcvm.now()
  local ok, err = pcall(fcvm.scope, function()
    local fleet = fcvm.parallel(args.fleet, function() return servers[memory]:clone():wait("healthy", { timeout = 1200 }) end)
    local seconds, pss, private, supervisors = fcvm.now() - began, 0, 0, 0
    for _, vm in ipairs(fleet) do
      assert(vm:request({ port = 80, timeout = 60 }).status == 200)
      local stats = vm:stats()
      pss, private, supervisors = pss + stats.memory.pss, private + stats.memory.private, supervisors + stats.supervisor.pss
    end
    rows[#rows + 1] = { what = ("%d at once, %s: all healthy after, s"):format(args.fleet, memory), value = seconds }
    rows[#rows + 1] = { what = "  their Firecrackers' PSS, MiB", value = pss / (1 << 20) }
    rows[#rows + 1] = { what = "  of it private, MiB", value = private / (1 << 20) }
    rows[#rows + 1] = { what = "  their supervisors' PSS, MiB", value = supervisors / (1 << 20) }
  end)
  if not ok then fcvm.log.error("%d at once, %s: %s", args.fleet, memory, tostring(err)) end
end
for _, server in pairs(servers) do server:stop() end
fcvm.report { title = "clone", columns = { "what", "value" }, rows = rows }
