-- SPDX-License-Identifier: Apache-2.0
--- newc archives, as the kernel unpacks them at its start. Archives may be put one after the other.
local M = {}

local FILE, DIRECTORY, CHARACTER = 32768, 16384, 8192

local function padded(text) return text .. ("\0"):rep(-#text % 4) end

-- Owner and time are always 0: equal content gives an equal archive.
local function entry(number, name, mode, data, major, minor)
  local head = ("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X"):format(number, mode, 0, 0, 1, 0, #data, 0, 0,
    major or 0, minor or 0, #name + 1, 0)
  return padded(head .. name .. "\0") .. padded(data)
end

--- The archive of `entries`, a list of {name, data=, mode=} (a file, mode 0644), {name, directory=true} or
-- {name, character={major, minor}}; directories come before what is in them. Names have no leading slash.
function M.archive(entries)
  local parts = {}
  for i, item in ipairs(entries) do
    local name = item[1]
    if item.directory then
      parts[i] = entry(i, name, DIRECTORY | 493, "")
    elseif item.character then
      parts[i] = entry(i, name, CHARACTER | 384, "", item.character[1], item.character[2])
    else
      parts[i] = entry(i, name, FILE | (item.mode or 420), item.data)
    end
  end
  parts[#parts + 1] = entry(0, "TRAILER!!!", 0, "")
  return table.concat(parts)
end

return M
