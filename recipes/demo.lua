-- SPDX-License-Identifier: Apache-2.0
--- The main job with a timeline: a web container in a microVM, healthy, asked over HTTP, stopped.
local fcvm = require "fcvm"

local args = fcvm.args({
  image = { "string", "image of a web server", default = fcvm.paths.images() .. "/demo" },
  port = { "integer", "its HTTP port", default = 80 },
}, { report = false, description = "Runs a web container and prints a timeline and the page it serves." })

local vm = fcvm.run { image = args.image, name = "demo", mem = "512M", cpu = 1, health = { port = args.port } }
vm:wait("healthy", { timeout = 240 })
local reply = vm:request { port = args.port }
local stages = vm:state().stages
vm:stop()

-- In the order in which they were reached: image and network are made at once, and whichever is done first is so here.
local rows, before = {}, 0
for stage, at in pairs(stages) do rows[#rows + 1] = { stage = stage, at = at } end
table.sort(rows, function(a, b) return a.at < b.at end)
for _, row in ipairs(rows) do row.took, before = row.at - before, row.at end
print "\nFrom start to healthy, in seconds:"
fcvm.report { columns = { "stage", "at", "took" }, rows = rows }
print(("\nThe container served (HTTP %d):\n%s"):format(reply.status, reply.body))
