-- SPDX-License-Identifier: Apache-2.0
--- The main job with a timeline: a web container in a microVM, healthy, asked over HTTP, snapshotted, and cloned.
local fcvm = require "fcvm"

local args = fcvm.args({
  image = { "string", "image of a web server", default = fcvm.paths.images() .. "/demo" },
  port = { "integer", "its HTTP port", default = 80 },
  clones = { "integer", "clones of it", default = 3 },
}, { report = false, description = "Runs a web container, prints a timeline and the page it serves, and clones it." })

local vm = fcvm.run { image = args.image, name = "demo", mem = "256M", cpu = 1, health = { port = args.port } }
vm:wait("healthy", { timeout = 240 })
local reply = vm:request { port = args.port }
local stages = vm:state().stages

-- In the order in which they were reached: image and network are made at once, and whichever is done first is so here.
local rows, before = {}, 0
for stage, at in pairs(stages) do rows[#rows + 1] = { stage = stage, at = at } end
table.sort(rows, function(a, b) return a.at < b.at end)
for _, row in ipairs(rows) do row.took, before = row.at - before, row.at end
print "\nFrom start to healthy, in seconds:"
fcvm.report { columns = { "stage", "at", "took" }, rows = rows }
print(("\nThe container served (HTTP %d):\n%s"):format(reply.status, reply.body))

local snapshot = vm:snapshot { tag = "demo" }
vm:stop()
local server = snapshot:serve()
-- The first clone's memory comes page by page and is recorded; the others find what they will touch.
local names = {}
for i = 0, args.clones do names[i + 1] = "demo-" .. i end
local function clone(name)
  local one = server:clone { name = name }
  one:wait("healthy", { timeout = 240 })
  local answer, at = one:request { port = args.port }, one:state().stages
  return { clone = name, memory = one.memory, load = at.load, restore = at.restore, healthy = at.healthy, http = answer.status,
    private_mib = one:stats().memory.private / (1 << 20) }
end
local fleet = { clone(table.remove(names, 1)) }
for _, row in ipairs(fcvm.parallel(names, clone)) do fleet[#fleet + 1] = row end
print(("The snapshot took %.2f s of its time. Clones, in seconds from their start:"):format(snapshot.paused))
fcvm.report { columns = { "clone", "memory", "load", "restore", "healthy", "http", "private_mib" }, rows = fleet }
server:stop()
snapshot:remove()
