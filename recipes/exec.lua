-- SPDX-License-Identifier: Apache-2.0
--- Runs a command in a running VM's container: `fcvm exec`.
local fcvm = require "fcvm"

local args = fcvm.args({
  vm = { "string", "name, PID or id of the VM", positional = 1 },
  cmd = { "rest", "command and its arguments" },
  env = { "pairs", "variable for the command, K=V, or K to pass ours on", short = "-e" },
  user = { "string", "user in the container", short = "-u", required = false },
  workdir = { "string", "directory to run it in", short = "-w", required = false, metavar = "DIR" },
  interactive = { "boolean", "pass our stdin on", short = "-i" },
  guest = { "boolean", "run it in the guest itself, outside of the container" },
  timeout = { "number", "seconds that it may take", required = false, metavar = "SECONDS" },
}, { report = false, description = "Runs a command in a running VM's container." })

if #args.cmd == 0 then
  fcvm.errors.raise { op = "exec", name = "EINVAL", message = "it needs a command", hint = "fcvm exec web ls -l" }
end

local out, bad = fcvm.stream.sink(1), fcvm.stream.sink(2)
local command = table.move(args.cmd, 1, #args.cmd, 1, {
  env = args.env, user = args.user, cwd = args.workdir, vm = args.guest, timeout = args.timeout,
  stdin = args.interactive and fcvm.stream.source(0) or nil,
  on_stdout = function(data) out:write(data) end,
  on_stderr = function(data) bad:write(data) end,
})
local result = fcvm.vm(args.vm):exec(command)
if result.error then fcvm.log.error("exec: %s", result.error) end
return result.signal and 128 + result.signal or result.status
