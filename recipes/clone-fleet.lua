-- SPDX-License-Identifier: Apache-2.0
--- One image, N healthy clones: runs the image, snapshots it, serves the snapshot, and asks every clone over HTTP.
local fcvm = require "fcvm"

local args = fcvm.args({
  image = { "string", "image of a web server", default = fcvm.paths.images() .. "/demo" },
  count = { "integer", "clones", default = 10 },
  limit = { "integer", "clones that start at once", required = false },
  port = { "integer", "its HTTP port", default = 80 },
  mem = { "size", "memory of a VM", default = 256 << 20 },
  memory = { "string", "how clones get theirs: auto, uffd or file", default = "auto", metavar = "HOW" },
}, { description = "Takes an image to N healthy clones and tells how each of them came to be." })

local base = fcvm.run { image = args.image, name = "fleet-base", mem = args.mem, cpu = 1, health = { port = args.port } }
base:wait "healthy"
local snapshot = base:snapshot { tag = "fleet" }
fcvm.log.info("the snapshot is made; %s stood still for %.2f s", base.name, snapshot.paused)
fcvm.defer(function() snapshot:remove() end)
local server = snapshot:serve { memory = args.memory }
-- The first clone is recorded; the others have its working set.
server:clone({ name = "fleet-first" }):wait("healthy"):stop()

local bar = fcvm.progress("clones", args.count)
local took = {}
local fleet = fcvm.parallel(args.count, function(i)
  local began = fcvm.now()
  local vm = server:clone { name = "fleet-" .. i, env = { SHARD = i } }:wait "healthy"
  took[vm.name] = fcvm.now() - began
  bar:step()
  return vm
end, { limit = args.limit })

-- Pages that the page server gave, by Firecracker's PID; none where a clone maps the memory file.
local pages = {}
for _, client in ipairs(server:stats().clients) do pages[client.pid] = client.bytes // 4096 + client.zero end
local rows = fcvm.parallel(fleet, function(vm)
  local reply = vm:request { port = args.port, path = "/" }
  local stages, stats = vm:state().stages, vm:stats()
  return { clone = vm.name, start = stages.spawn, restore = stages.restore, healthy = stages.healthy, seconds = took[vm.name],
    status = reply.status, pages = pages[stats.firecracker], private_mib = stats.memory.private / (1 << 20),
    pss_mib = stats.memory.pss / (1 << 20) }
end)
fcvm.report { title = "clone fleet", rows = rows,
  columns = { "clone", "start", "restore", "healthy", "seconds", "status", "pages", "private_mib", "pss_mib" } }
