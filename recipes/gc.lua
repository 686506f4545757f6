-- SPDX-License-Identifier: Apache-2.0
--- Lists and removes what has no living owner: `fcvm gc`.
local fcvm = require "fcvm"

local args = fcvm.args({
  dry_run = { "boolean", "list it, and leave it" },
}, { report = "json", description = "Removes what is left of VMs and servers whose process has ended: records, namespaces, links,"
  .. " tables, directories. Nothing else is touched." })

local list, foreign = (args.dry_run and fcvm.gc.find or fcvm.gc.collect)()
local rows, failed = {}, false
for i, entry in ipairs(list) do
  failed = failed or type(entry.removed) == "string"
  rows[i] = { kind = entry.kind, name = entry.name, owner = entry.owner, why = entry.why,
    removed = args.dry_run and "would be" or entry.removed == true and "yes" or entry.removed }
end
for _, entry in ipairs(foreign) do
  fcvm.log.info("the %s %s is not fcvm's, and is left alone", entry.kind, entry.name)
end
if #rows > 0 or args.json then
  fcvm.report { title = "gc", rows = rows, columns = { "kind", "name", "owner", "why", "removed" } }
end
return failed and 1 or 0
