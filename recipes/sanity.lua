-- SPDX-License-Identifier: Apache-2.0
--- Runs a web container, waits until it is healthy, asks it, stops it and looks for what is left: `fcvm test sanity`.
local fcvm = require "fcvm"

local args = fcvm.args({
  image = { "string", "image of a web server", default = fcvm.paths.images() .. "/demo" },
  port = { "integer", "its HTTP port", default = 80 },
  limit = { "number", "seconds until it must be healthy", default = 180, metavar = "SECONDS" },
}, { report = false, description = "Runs a web container from start to end; exit status 0 is a pass." })

local began = fcvm.now()
local vm = fcvm.run { image = args.image, mem = "512M", cpu = 1, health = { port = args.port } }
vm:wait("healthy", { timeout = args.limit })
fcvm.log.info("%s is healthy after %.1f s", vm.name, fcvm.now() - began)

local reply = vm:request { port = args.port }
assert(reply.status == 200, "it answered " .. reply.status)
fcvm.log.info("it answers: %s", reply.body:match "^[^\n]*")

local id = vm.id
vm:stop()
local left = {}
for _, path in ipairs { fcvm.paths.state() .. "/" .. id .. ".json", fcvm.paths.disks() .. "/" .. id,
  fcvm.paths.run() .. "/netns/" .. id, "/sys/fs/cgroup/fcvm/" .. id } do
  if io.open(path) then left[#left + 1] = path end
end
assert(#left == 0, "these are left: " .. table.concat(left, ", "))
fcvm.log.info("stopped, and nothing is left: passed in %.1f s", fcvm.now() - began)
