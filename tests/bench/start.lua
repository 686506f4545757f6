-- SPDX-License-Identifier: Apache-2.0
--- Start to healthy with fcvm against the same sequence by bare commands, turn about; ratios hold, milliseconds do not.
local fcvm = require "fcvm"

local args = fcvm.args {
  rounds = { "integer", "times that each runs", default = 3 },
  image = { "string", "image of a web server", default = fcvm.paths.images() .. "/demo" },
  bare = { "string", "the script of bare commands", default = "./tests/bench/bare.sh" },
}

local image = fcvm.image.open { reference = args.image }
local plan = os.tmpname()
local file = assert(io.open(plan, "w"))
file:write(fcvm.json.encode { plan = { version = 1, name = "bare", hostname = "bare", dns = fcvm.json.array {},
  image = { reference = image.reference, store = "/dev/vdb" }, time_ns = os.time() * 1000000000 } })
file:close()
fcvm.defer(function() os.remove(plan) end)

local function median(list)
  table.sort(list)
  return list[(#list + 1) // 2]
end

local function with_fcvm()
  local vm = fcvm.run { image = args.image, cpu = 1, mem = "512M", health = { port = 80, interval = 0.05 } }
  vm:wait "healthy"
  local record, supervisor = vm:state(), vm:stats().supervisor
  vm:stop()
  return record, supervisor
end

local bare, ours, pss, ready, stages = {}, {}, {}, {}, nil
local bar = fcvm.progress("bench", 2 * args.rounds)
for round = 1, args.rounds do
  bare[round] = tonumber((fcvm.process.run { args.bare, fcvm.paths.data(), image.store, plan, "80", timeout = 300 }).stdout)
  bar:step()
  local record, memory = with_fcvm()
  stages, ready[round] = record.stages, record.guest_ready
  ours[round], pss[round] = stages.healthy, memory.pss
  bar:step()
end
bar:done()

local rows = { { what = "bare commands, s", median = median(bare) }, { what = "fcvm, s", median = median(ours) },
  { what = "ratio (at most 1.15)", median = median(ours) / median(bare) },
  { what = "supervisor PSS, MiB (below 8)", median = median(pss) / (1 << 20) },
  { what = "guest kernel to agent ready, s", median = median(ready) } }
local names = {}
for name in pairs(stages) do names[#names + 1] = name end
table.sort(names, function(a, b) return stages[a] < stages[b] end)
for _, name in ipairs(names) do rows[#rows + 1] = { what = "last round: at " .. name, median = stages[name] } end
fcvm.report { title = "start", columns = { "what", "median" }, rows = rows }
