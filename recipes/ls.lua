-- SPDX-License-Identifier: Apache-2.0
--- Lists the running VMs: `fcvm ls`.
local fcvm = require "fcvm"

local args = fcvm.args({
  pid = { "integer", "only the VM of this process", required = false },
}, { report = "json", description = "Lists the running VMs. A record that cannot be read is reported on stderr." })

local living, dead, corrupt = fcvm.state.scan()
for _, broken in ipairs(corrupt) do fcvm.log.warn("%s", tostring(broken.error)) end
if #dead > 0 then fcvm.log.info("%d ended without cleaning up; fcvm sweep removes what they left", #dead) end

local rows = {}
for _, record in ipairs(living) do
  if record.vm_id and (not args.pid or record.pid == args.pid) then rows[#rows + 1] = record end
end
if not args.json then
  for _, record in ipairs(rows) do
    for i, port in ipairs(record.ports or {}) do record.ports[i] = fcvm.port_text(port) end
    record.ports = record.ports and table.concat(record.ports, ", ")
  end
end
fcvm.report { title = "vms", rows = rows,
  columns = { "name", "pid", "process_type", "status", "health", "address", "ports", "image" } }
