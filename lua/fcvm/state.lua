-- SPDX-License-Identifier: Apache-2.0
--- State records: one JSON file a supervising process, <data>/state/<vm_id>.json, owned by that process.
--
-- A record belongs to the process it names (PID, start time, boot id: a reused PID is never mistaken for it). Records are
-- written whole and renamed, claims are made under a lock, and a command that only reads changes nothing. What a dead
-- owner left is removed by `sweep`, which every command that writes runs first. docs/state.md lists the fields.
local uv = require "luv"
local core = require "fcvm.core"
local errors = require "fcvm.errors"
local json = require "fcvm.json"
local paths = require "fcvm.paths"
local task = require "fcvm.task"

local M = {}
local RECORD_MAX = 256 << 10
local LOCK_SECONDS = 120 -- a hundred that start at once each hold it for a moment
local LOCK_PAUSE, LOCK_PAUSE_MOST = 0.005, 0.1
local SLOTS = 16384
local holder -- the task that has the lock now, and may take it again

local function file_of(id) return paths.state() .. "/" .. id .. ".json" end

--- Is `text` the id of a VM, a server or a recipe's network? (Ids become paths and names of links: nothing else may pass.)
function M.is_id(text)
  local kind, digits = tostring(text):match "^(%l+)%-(%x+)$"
  return (kind == "vm" or kind == "serve" or kind == "net") and #digits == 12
end

--- Where the record of `id` is.
M.path = file_of

--- The id of a record: a VM's vm_id, a server's serve_id, a recipe's network's net_id.
function M.id(record) return record.vm_id or record.serve_id or record.net_id end

--- Is `text` fit to be a VM's name? As host names: letters, digits, '-', '_', '.', at most 63, a letter or digit first.
function M.is_name(text)
  return type(text) == "string" and #text <= 63 and text:match "^[%w][%w_.-]*$" ~= nil
end

local required = { name = "string", pid = "integer", start_time = "integer", boot_id = "string",
  process_type = "string", status = "string", health = "string" }
local required_of = {
  vm = { vm_id = "string", slot = "integer" },
  clone = { vm_id = "string", slot = "integer", serve_pid = "integer", snapshot = "string" },
  serve = { serve_id = "string", snapshot = "string" },
  net = { net_id = "string" },
}

local function lacks(record, fields)
  for key, kind in pairs(fields) do
    if (math.type(record[key]) or type(record[key])) ~= kind then return ("its %s is no %s"):format(key, kind) end
  end
end

local function validate(record, id)
  if type(record) ~= "table" then return "it holds no object" end
  local problem = lacks(record, required)
  if problem then return problem end
  local more = required_of[record.process_type]
  if not more then return "its process_type is unknown" end
  problem = lacks(record, more)
  if problem then return problem end
  if M.id(record) ~= id then return "it names another" end
  if not M.is_name(record.name) then return "its name is none" end
  if record.pid < 1 or record.pid >= 1 << 31 or record.start_time < 0 then return "its process is none" end
  local slot = record.slot
  if slot ~= nil and (math.type(slot) ~= "integer" or slot < 0 or slot >= SLOTS) then return "its slot is out of range" end
end

--- The record of `id`, or nil and why: an error ENOENT, or EPROTO where the file is no record.
function M.read(id)
  local text, err = core.disk.read(file_of(id), RECORD_MAX)
  if not text then return nil, err end
  local record, why = json.decode(text, file_of(id))
  local problem = record and validate(record, id) or (why and why.message)
  if problem then
    return nil, errors.new { op = "read state record", subject = file_of(id), name = "EPROTO", message = problem,
      status = errors.status.data, hint = "the next fcvm command that writes sets it aside" }
  end
  return record
end

-- The ids of all records. A record is written by a rename, and a directory that is read meanwhile may show neither the old
-- entry nor the new one (btrfs: seen with fifty VMs): what one reading misses, the next one has.
local function ids()
  local set = {}
  for _ = 1, 2 do
    local dir = uv.fs_scandir(paths.state())
    while dir do
      local entry = uv.fs_scandir_next(dir)
      if not entry then break end
      local id = entry:match "^(.+)%.json$"
      if id and M.is_id(id) then set[id] = true end
    end
  end
  return set
end

--- All records: `living` and `dead` are lists of records by name, `corrupt` a list of {id=, error=}. Reads only.
function M.scan()
  local living, dead, corrupt = {}, {}, {}
  for id in pairs(ids()) do
    local record, err = M.read(id)
    if record then
      local list = core.proc.alive(record) and living or dead
      list[#list + 1] = record
    elseif err.name ~= "ENOENT" then
      corrupt[#corrupt + 1] = { id = id, error = err }
    end
  end
  for _, list in ipairs { living, dead } do
    table.sort(list, function(a, b) return a.name < b.name end)
  end
  return living, dead, corrupt
end

--- The living VMs (and clones), by name.
function M.vms()
  local list = {}
  for _, record in ipairs((M.scan())) do
    if record.vm_id then list[#list + 1] = record end
  end
  return list
end

--- The living servers, oldest first; of one snapshot where its tag is given.
function M.servers(tag)
  local list = {}
  for _, record in ipairs((M.scan())) do
    if record.serve_id and (not tag or record.snapshot == tag) then list[#list + 1] = record end
  end
  table.sort(list, function(a, b)
    if a.created_at ~= b.created_at then return a.created_at < b.created_at end
    return a.pid < b.pid
  end)
  return list
end

--- The living VM's record that `key` (a name, an id, or a PID as number or digits) means; raises ENOENT.
function M.find(key)
  local living = M.vms()
  local pid = math.tointeger(tonumber(key))
  for _, record in ipairs(living) do
    if record.name == key or record.vm_id == key or (pid and record.pid == pid) then return record end
  end
  local names = {}
  for _, record in ipairs(living) do names[#names + 1] = record.name end
  local near = errors.nearest(tostring(key), names)
  errors.raise { op = "find VM", subject = tostring(key), name = "ENOENT", message = "no VM of that name, PID or id is running",
    hint = near and ("did you mean '%s'?"):format(near) or "fcvm ls lists them" }
end

--- Runs `fn` under the lock of the state directory; waits for it at most LOCK_SECONDS.
function M.locked(fn)
  if holder and holder == task.current() then return fn() end
  paths.ensure(paths.state())
  local path = paths.state() .. "/.lock"
  local deadline = task.now() + LOCK_SECONDS
  local lock, err = core.proc.lock(path)
  local pause = LOCK_PAUSE
  while not lock and err.name == "EAGAIN" and task.now() < deadline do
    -- Many that look often take the time from the one who holds it; and not all are to look at once.
    task.sleep(pause * (0.5 + uv.hrtime() % 1000 / 1000))
    pause = math.min(pause * 1.5, LOCK_PAUSE_MOST)
    lock, err = core.proc.lock(path)
  end
  if not lock then
    if err.name == "EAGAIN" then
      err = errors.new { op = "lock", subject = path, name = "ETIMEDOUT",
        message = ("another fcvm held it for %d s"):format(LOCK_SECONDS) }
    end
    error(errors.new(err), 0)
  end
  holder = task.current()
  local out = table.pack(pcall(fn))
  holder = nil
  lock:close()
  if not out[1] then error(out[2], 0) end
  return table.unpack(out, 2, out.n)
end

--- Writes the record whole. By its owner only.
function M.write(record)
  errors.check(core.disk.write(file_of(M.id(record)), json.encode(record), 384))
end

local function free_slot(living, is_free)
  local used = {}
  for _, record in ipairs(living) do
    if record.slot then used[record.slot] = true end
  end
  -- Neighbouring starts begin at places far apart, so that two data directories on one host seldom meet.
  local first = tonumber(core.proc.random_hex(4), 16) % SLOTS
  for i = 0, SLOTS - 1 do
    local slot = (first + i) % SLOTS
    if not used[slot] and is_free(slot) then return slot end
  end
  errors.raise { op = "claim network", name = "EADDRNOTAVAIL", message = "all " .. SLOTS .. " are in use",
    status = errors.status.temporary }
end

local function check_name(record, living)
  if not M.is_name(record.name) then
    errors.raise { op = "name VM", subject = tostring(record.name), name = "EINVAL",
      message = "a name has letters, digits, '-', '_' and '.', at most 63, and begins with a letter or digit" }
  end
  for _, other in ipairs(living) do
    if other.name == record.name then
      errors.raise { op = "name VM", subject = record.name, name = "EEXIST",
        message = ("the VM of process %d has this name"):format(other.pid),
        hint = ("fcvm stop %s, or choose another name"):format(other.name) }
    end
  end
end

-- `prepare(record, living, dead)` completes the record before it is written, `after(record)` comes when it is; both may raise.
local function claim(kind, fields, prepare, after)
  local identity = errors.check(core.proc.identity())
  return M.locked(function()
    local living, dead = M.scan()
    local id = kind .. "-" .. core.proc.random_hex(6)
    local record = { [kind .. "_id"] = id, name = fields.name or id, pid = identity.pid, start_time = identity.start_time,
      boot_id = identity.boot_id, status = "starting", health = "unknown", created_at = os.time() }
    for key, value in pairs(fields) do record[key] = value end
    check_name(record, living)
    if prepare then prepare(record, living, dead) end
    M.write(record)
    if after then
      local ok, err = pcall(after, record)
      if not ok then
        M.remove(id)
        error(err, 0)
      end
    end
    return record
  end)
end

--- Claims a name and a network slot for this process and writes its first record, of `fields` (name may be nil: one is
-- made). `is_free(slot)` says whether a slot may be used on this host; `check(record, living)`, where it is given, may raise
-- under the lock what speaks against the claim, and add to the record. Raises EEXIST where a living VM has the name.
function M.claim(fields, is_free, check)
  return claim("vm", fields, function(record, living, dead)
    if check then check(record, living) end
    local all = table.move(dead, 1, #dead, #living + 1, table.move(living, 1, #living, 1, {}))
    record.slot = free_slot(all, is_free)
  end)
end

--- Claims the record of a server (fields.snapshot is its snapshot's tag). `prepare(record)` runs under the lock, when the
-- record is there: what it finds of the snapshot is not removed meanwhile, and what it makes has an owner.
function M.claim_server(fields, prepare) return claim("serve", fields, nil, prepare) end

--- Writes the first record of a recipe's network (lua/fcvm/net.lua).
function M.claim_net(fields) return claim("net", fields) end

--- Removes the record of `id`; that it is gone already is fine.
function M.remove(id) uv.fs_unlink(file_of(id)) end

--- Removes what dead owners left: `release(record)` frees a record's resources (an id alone where the record was
-- corrupt); records that make no sense are set aside in state/corrupt. Returns {id, …} and the failures as {id=, error=}.
function M.sweep(release)
  local _, dead, corrupt = M.scan()
  if #dead + #corrupt == 0 then return {}, {} end
  return M.locked(function()
    local swept, failed = {}, {}
    local _, dead_now, corrupt_now = M.scan()
    for _, record in ipairs(dead_now) do
      local ok, err = pcall(release, record)
      if ok then
        M.remove(M.id(record))
        swept[#swept + 1] = M.id(record)
      else
        failed[#failed + 1] = { id = M.id(record), error = err }
      end
    end
    for _, broken in ipairs(corrupt_now) do
      local aside = paths.ensure(paths.state() .. "/corrupt") .. "/" .. broken.id .. ".json"
      uv.fs_rename(file_of(broken.id), aside)
      local ok, err = pcall(release, { [broken.id:match "^%l+" .. "_id"] = broken.id })
      failed[#failed + 1] = { id = broken.id, error = ok and errors.new { op = "read state record", subject = broken.id,
        name = "EPROTO", message = broken.error.message .. "; set aside as " .. aside } or err }
    end
    return swept, failed
  end)
end

return M
