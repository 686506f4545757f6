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

local rows, before = {}, 0
for _, name in ipairs { "network", "image", "disk", "spawn", "boot", "agent", "container", "healthy" } do
  rows[#rows + 1] = { stage = name, at = stages[name], took = stages[name] - before }
  before = stages[name]
end
print "\nFrom start to healthy, in seconds:"
fcvm.report { columns = { "stage", "at", "took" }, rows = rows }
print(("\nThe container served (HTTP %d):\n%s"):format(reply.status, reply.body))
