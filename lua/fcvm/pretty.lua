-- SPDX-License-Identifier: Apache-2.0
--- Lua values as text for people, bounded in depth and size.
local log = require "fcvm.log"

local DEPTH, ITEMS, WIDTH = 6, 64, 80

local function key_text(key)
  if type(key) == "string" and key:match "^[%a_][%w_]*$" then return key end
  return "[" .. (type(key) == "string" and ("%q"):format(key) or tostring(key)) .. "]"
end

local function sorted(value)
  local keys = {}
  for key in next, value do keys[#keys + 1] = key end
  table.sort(keys, function(a, b)
    if math.type(a) == "integer" and math.type(b) == "integer" then return a < b end
    if math.type(a) == "integer" or math.type(b) == "integer" then return math.type(a) == "integer" end
    return tostring(a) < tostring(b)
  end)
  return keys
end

local function show(value, depth, seen)
  if type(value) == "string" then return '"' .. log.printable((value:gsub('[\\"]', "\\%0"):gsub("\n", "\\n"))) .. '"' end
  if type(value) ~= "table" then return tostring(value) end
  local meta = getmetatable(value)
  if meta and meta.__tostring then return tostring(value) end
  if seen[value] then return "{…}" end
  if next(value) == nil then return "{}" end
  if depth >= DEPTH then return "{…}" end
  seen[value] = true
  local parts, count = {}, 0
  for _, key in ipairs(sorted(value)) do
    count = count + 1
    if count > ITEMS then
      parts[#parts + 1] = "…"
      break
    end
    local text = show(value[key], depth + 1, seen)
    parts[#parts + 1] = key == count and text or key_text(key) .. " = " .. text
  end
  seen[value] = nil
  local flat = "{ " .. table.concat(parts, ", ") .. " }"
  if #flat <= WIDTH and not flat:find "\n" then return flat end
  local pad = ("  "):rep(depth)
  return "{\n" .. pad .. "  " .. table.concat(parts, ",\n" .. pad .. "  ") .. "\n" .. pad .. "}"
end

--- The text of `value`.
return function(value) return show(value, 0, {}) end
