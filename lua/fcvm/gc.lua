-- SPDX-License-Identifier: Apache-2.0
--- What is left of owners that do not live any more: found, told, and removed. `fcvm gc`.
--
-- Whose a thing is says the record that it belongs to, and, where that is gone too, the mark that it carries itself: a link's
-- and a table's note, the name of a namespace or directory. What has another mark, or none, is somebody else's whatever it is
-- called.
local core = require "fcvm.core"
local errors = require "fcvm.errors"
local lan = require "fcvm.lan"
local paths = require "fcvm.paths"
local resources = require "fcvm.resources"
local state = require "fcvm.state"
local uv = require "luv"

local M = {}

local function gone_is_fine(ok, err)
  if not ok and err.name ~= "ENOENT" and err.name ~= "ENODEV" then error(errors.new(err), 0) end
end

-- Calls fn(name) for each entry of a directory.
local function each(dir, fn)
  local scan = uv.fs_scandir(dir)
  for name in function() return scan and uv.fs_scandir_next(scan) end do fn(name) end
end

-- What this host has that carries a mark of fcvm's: entries with `id`, the VM or server whose it is. Looked at before the
-- records, since a record is there before all that it owns.
local function marked()
  local list, foreign = {}, {}
  local function add(kind, name, id, remove) list[#list + 1] = { kind = kind, name = name, id = id, remove = remove } end
  local function other(kind, name) foreign[#foreign + 1] = { kind = kind, name = name } end
  each(paths.run() .. "/netns", function(name)
    local path = paths.run() .. "/netns/" .. name
    if state.is_id(name) then add("namespace", path, name, function() gone_is_fine(core.net.namespace_remove(path)) end) end
  end)
  for kind, home in pairs { directory = paths.disks(), ["server's directory"] = paths.serves() } do
    each(home, function(name)
      local path = home .. "/" .. name
      if state.is_id(name) then add(kind, path, name, function() resources.remove_tree(path) end) end
    end)
  end
  if uv.getuid() ~= 0 then return list, foreign end
  local host = errors.check(core.net.open())
  local links, ports = errors.check(host:links()), {}
  for _, link in ipairs(links) do ports[link.master or 0] = true end
  for _, link in ipairs(links) do
    local function remove()
      local again <close> = errors.check(core.net.open())
      gone_is_fine(again:link_delete(link.name))
    end
    local id = (link.alias or ""):match "^fcvm (%l+%-%x+)$"
    if id and state.is_id(id) then
      add("link", link.name, id, remove)
    elseif link.name:match "^fc[vm]%d" then
      other("link", link.name)
    elseif link.name:match "^fcn%d" then
      local unfinished = not link.alias and link.mac == lan.mac_of(tonumber(link.name:match "%d+"))
      if not unfinished and not (link.alias or ""):match "^fcvm network " then
        other("link", link.name)
      elseif not ports[link.index] then
        add("bridge", link.name, "none of its members", remove)
      end
    end
  end
  for _, entry in ipairs(errors.check(host:tables())) do
    local id = entry.comment and entry.comment:match "^fcvm (%l+%-%x+) pid %d+$"
    if id and entry.name == "fcvm-" .. id then
      add("table", entry.name, id, function()
        local again <close> = errors.check(core.net.open())
        gone_is_fine(again:table_delete(entry.name))
      end)
    else
      other("table", entry.name)
    end
  end
  host:close()
  return list, foreign
end

--- All that has no living owner: a list of {kind=, name=, owner=, why=}; and, as a second list, links and tables that are called
-- as fcvm's are and are not: {kind=, name=}. Reads only.
function M.find()
  local seen, foreign = marked()
  local living, dead, corrupt = state.scan()
  local lives, list = {}, {}
  for _, record in ipairs(living) do lives[state.id(record)] = true end
  local reasons = {}
  for _, record in ipairs(dead) do
    local id = state.id(record)
    reasons[id] = ("process %d has ended"):format(record.pid)
    list[#list + 1] = { kind = "record", name = record.name, owner = id, why = reasons[id] }
  end
  for _, broken in ipairs(corrupt) do
    reasons[broken.id] = "its record cannot be read"
    list[#list + 1] = { kind = "record", name = broken.id, owner = broken.id, why = broken.error.message }
  end
  for _, entry in ipairs(seen) do
    if not lives[entry.id] then
      list[#list + 1] = { kind = entry.kind, name = entry.name, owner = entry.id,
        why = reasons[entry.id] or "nobody has a record of it", remove = entry.remove }
    end
  end
  return list, foreign
end

--- Removes all that M.find tells, and says of each whether it went: `removed` true, or the error in words. Returns both lists.
function M.collect()
  local list, foreign = M.find()
  -- Records first, with all that they know of; what only carries a mark is what is left then.
  resources.sweep()
  local function remove(entries, among)
    local left = {}
    for _, entry in ipairs(among) do left[entry.kind .. entry.name] = true end
    for _, entry in ipairs(entries) do
      entry.removed = true
      if left[entry.kind .. entry.name] then
        local ok, err = pcall(entry.remove or function() errors.raise { op = "remove", subject = entry.name, name = "EBUSY" } end)
        if not ok then entry.removed = tostring(err) end
      end
    end
  end
  remove(list, (M.find()))
  -- A bridge is nobody's only when its last port is gone.
  local bridges, told = {}, {}
  for _, entry in ipairs(list) do told[entry.name] = true end
  for _, entry in ipairs((M.find())) do
    if entry.kind == "bridge" and not told[entry.name] then bridges[#bridges + 1] = entry end
  end
  remove(bridges, bridges)
  return table.move(bridges, 1, #bridges, #list + 1, list), foreign
end

return M
