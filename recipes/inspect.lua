-- SPDX-License-Identifier: Apache-2.0
--- Shows all that is known of a running VM, as JSON: `fcvm inspect`.
local fcvm = require "fcvm"

local args = fcvm.args({
  vm = { "string", "name, PID or id of the VM", positional = 1 },
}, { report = false, description = "Shows all that is known of a running VM, as JSON." })

local vm = fcvm.vm(args.vm)
local record = vm:state()
local ok, stats = pcall(vm.stats, vm)
record.stats = ok and stats or nil
if record.egress then
  local found, denied = pcall(vm.egress, vm)
  if found then record.egress = denied end
end
print(fcvm.json.encode(record, true))
