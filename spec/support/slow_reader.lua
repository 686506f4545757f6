-- SPDX-License-Identifier: Apache-2.0
--- A recipe that leaves its VM's output unread while the container ends: run by kvm_spec.
local fcvm = require "fcvm"
local core = fcvm.core

local args = fcvm.args { image = { "string", positional = 1 } }
local reader, writer = assert(core.proc.pipe())
local child = assert(core.proc.spawn { argv = { fcvm.paths.prefix() .. "/bin/fcvm", "run", "--mem", "256M", "--cpu", "1",
  args.image, "/bin/sh", "-c", "head -c 3000000 /dev/zero" }, fds = { [1] = writer, [2] = 2 } })
core.proc.close(writer)
-- Longer than the container lives, so that its end finds a full pipe.
fcvm.sleep(30)
local size, source = 0, fcvm.stream.source(reader)
for chunk in source do size = size + #chunk end
core.proc.close(reader)
child:close()
print(size)
