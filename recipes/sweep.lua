-- SPDX-License-Identifier: Apache-2.0
--- Removes what killed VMs left: `fcvm sweep`. Every start does the same by itself; `fcvm gc` does it and tells more.
local fcvm = require "fcvm"

fcvm.args({}, { report = false, description = "Removes what VMs left whose supervisor was killed." })
fcvm.sweep()
