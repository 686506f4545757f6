-- SPDX-License-Identifier: Apache-2.0
--- The members of a tar archive (ustar, pax, GNU's long names), without their data.
local errors = require "fcvm.errors"

local M = {}

local BLOCK = 512
local ID_MAX = (1 << 32) - 2
local LONG_MAX = 1 << 20 -- bytes of a header that stands for a name or for pax records

local types = { ["0"] = "file", ["\0"] = "file", ["7"] = "file", ["1"] = "hardlink", ["2"] = "symlink", ["3"] = "char",
  ["4"] = "block", ["5"] = "directory", ["6"] = "fifo" }

local function bad(what, message)
  errors.raise { op = "read archive", subject = what, name = "EPROTO", message = message, status = errors.status.data }
end

local function text(block, at, size) return (block:sub(at, at + size - 1):match "^[^\0]*") end

-- A number in octal, or in base 256 where its first bit is set.
local function number(block, at, size, what)
  local field = block:sub(at, at + size - 1)
  if field:byte(1) & 0x80 ~= 0 then
    local value = field:byte(1) & 0x7f
    for i = 2, #field do
      if value >= 1 << 55 then bad(what, "a number in a header is out of range") end
      value = value << 8 | field:byte(i)
    end
    return value
  end
  local digits = field:match "^[ \0]*([0-7]*)[ \0]*"
  return digits == "" and 0 or tonumber(digits, 8)
end

-- A whole number from 0 to 2^53 in decimal, as pax has them (times with a fraction, which is left out), or nil for nil.
local function decimal(value, what)
  if not value then return nil end
  local whole = #value < 32 and value:match "^(%d+)%.?%d*$"
  local n = whole and math.tointeger(tonumber(whole))
  if not n or n > 1 << 53 then bad(what, "a number in a pax record is none") end
  return n
end

local function checksum_fits(block)
  local sum = 8 * 32
  for i = 1, 148 do sum = sum + block:byte(i) end
  for i = 157, BLOCK do sum = sum + block:byte(i) end
  return sum == number(block, 149, 8)
end

-- The records of a pax header: "LENGTH KEY=VALUE\n" each.
local function pax(data, what)
  local records, at = {}, 1
  while at <= #data do
    local digits = data:match("^(%d+) ", at)
    local length = digits and tonumber(digits)
    if not length or length < #digits + 4 or at + length - 1 > #data then bad(what, "a pax record makes no sense") end
    local key, value = data:sub(at + #digits + 1, at + length - 2):match "^([^=]+)=(.*)$"
    if not key then bad(what, "a pax record has no key") end
    records[key] = value
    at = at + length
  end
  return records
end

-- Absolute, without "." and a slash at the end; ".." is refused.
local function absolute(name, what)
  local parts = {}
  for part in name:gmatch "[^/]+" do
    if part == ".." then bad(what, ("the name '%s' leads out of it"):format(name)) end
    if part ~= "." then parts[#parts + 1] = part end
  end
  return "/" .. table.concat(parts, "/")
end

--- The members of the archive at `path`, in its order: {path= (absolute), type= ("file", "directory", "symlink",
-- "hardlink", "char", "block", "fifo"), mode=, uid=, gid=, size=, mtime= (seconds), target=, major=, minor=,
-- xattrs={name = bytes}}. `pause` is called now and then. Raises EPROTO for what is no archive or was cut short.
function M.members(path, pause)
  local file <close> = assert(io.open(path, "rb"))
  local total = file:seek "end"
  file:seek "set"
  local members, zeros, extra, common = {}, 0, {}, {}
  while true do
    local block = file:read(BLOCK)
    if not block or #block < BLOCK then bad(path, "it ends without its end mark") end
    if block:find "^%z+$" then
      zeros = zeros + 1
      if zeros == 2 then return members end
      goto next
    end
    zeros = 0
    if not checksum_fits(block) then bad(path, "a header's checksum does not fit") end
    do
      local flag = block:sub(157, 157)
      local size = decimal(extra.size or common.size, path) or number(block, 125, 12, path)
      if size > total then bad(path, "it was cut short") end
      local after = file:seek() + (size + BLOCK - 1) // BLOCK * BLOCK
      if after > total then bad(path, "it was cut short") end
      if flag == "x" or flag == "g" or flag == "L" or flag == "K" then
        if size > LONG_MAX then bad(path, "a header of a header is too long") end
        local data = file:read(size) or ""
        if flag == "L" then
          extra.path = data:match "^[^\0]*"
        elseif flag == "K" then
          extra.linkpath = data:match "^[^\0]*"
        else
          for key, value in pairs(pax(data, path)) do (flag == "g" and common or extra)[key] = value end
        end
      else
        local fields = setmetatable(extra, { __index = common })
        local prefix = block:sub(258, 263) == "ustar\0" and text(block, 346, 155) or ""
        local name = fields.path or (prefix ~= "" and prefix .. "/" or "") .. text(block, 1, 100)
        local kind = types[flag]
        local uid = decimal(fields.uid, path) or number(block, 109, 8, path)
        local gid = decimal(fields.gid, path) or number(block, 117, 8, path)
        if uid > ID_MAX or gid > ID_MAX then bad(path, ("the owner of '%s' is out of range"):format(name)) end
        if not kind then bad(path, ("'%s' is of the unknown type '%s'"):format(name, flag)) end
        local member = { path = absolute(name, path), type = kind, mode = number(block, 101, 8, path) & 4095,
          uid = uid, gid = gid, size = kind == "file" and size or 0,
          mtime = decimal(fields.mtime, path) or number(block, 137, 12, path) }
        if kind == "symlink" then member.target = fields.linkpath or text(block, 158, 100) end
        if kind == "hardlink" then member.target = absolute(fields.linkpath or text(block, 158, 100), path) end
        if kind == "char" or kind == "block" then
          member.major, member.minor = number(block, 330, 8, path), number(block, 338, 8, path)
        end
        for key, value in pairs(extra) do
          local xattr = key:match "^SCHILY%.xattr%.(.+)$"
          if xattr then
            member.xattrs = member.xattrs or {}
            member.xattrs[xattr] = value
          end
        end
        members[#members + 1] = member
        extra = {}
        if pause and #members % 500 == 0 then pause() end
      end
      file:seek("set", after)
    end
    ::next::
  end
end

return M
