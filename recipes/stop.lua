-- SPDX-License-Identifier: Apache-2.0
--- Stops VMs or servers and waits until nothing of them is left: `fcvm stop`.
local fcvm = require "fcvm"

local args = fcvm.args({
  vm = { "string", "name, PID or id; a server's PID or id", positional = 1, many = true },
  timeout = { "number", "seconds until it is forced", short = "-t", default = 40, metavar = "SECONDS" },
}, { report = false, description = "Stops VMs, or servers with their clones, and waits until nothing of them is left." })

if #args.vm == 0 then
  fcvm.errors.raise { op = "stop", name = "EINVAL", message = "it needs a VM", hint = "fcvm ls lists them" }
end
local found = {}
for _, server in ipairs(fcvm.servers()) do
  for i, key in ipairs(args.vm) do
    if key == server.id or key == tostring(server.pid) then found[i] = server end
  end
end
for i, key in ipairs(args.vm) do found[i] = found[i] or fcvm.vm(key) end
fcvm.parallel(found, function(vm)
  vm:stop { timeout = args.timeout }
end)
