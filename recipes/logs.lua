-- SPDX-License-Identifier: Apache-2.0
--- Shows what a running VM's container wrote, each stream on its own: `fcvm logs`.
local fcvm = require "fcvm"

local args = fcvm.args({
  vm = { "string", "name, PID or id of the VM", positional = 1 },
  follow = { "boolean", "go on until the VM ends", short = "-f" },
}, { report = false, description = "Shows what a running VM's container wrote." })

fcvm.vm(args.vm):logs { follow = args.follow, on_output = function(stream, data)
  io[stream]:write(data)
  io[stream]:flush()
end }
