-- SPDX-License-Identifier: Apache-2.0
--- JSON by dkjson (which keeps 64-bit integers), with foreign text bounded and its errors in words.
local dkjson = require "dkjson"
local errors = require "fcvm.errors"

local M = { null = dkjson.null }

--- A table that is written as an array even when it is empty.
function M.array(list) return setmetatable(list or {}, { __jsontype = "array" }) end

--- A table that is written as an object even when it is empty.
function M.object(map) return setmetatable(map or {}, { __jsontype = "object" }) end

--- Text of a value; `indent` for people. Keys are sorted, so that equal values give equal text. (dkjson takes a table whose
-- only key is an integer `n` for an array of that length: no table of ours has such a key.)
function M.encode(value, indent)
  local keys = {}
  local function collect(v)
    if type(v) ~= "table" then return end
    for key, inner in pairs(v) do
      if type(key) == "string" then keys[key] = true end
      collect(inner)
    end
  end
  collect(value)
  local order = {}
  for key in pairs(keys) do order[#order + 1] = key end
  table.sort(order)
  return (dkjson.encode(value, { indent = indent, keyorder = order }))
end

local DEPTH_MAX = 64

-- Where the string that begins at `at` ends, or nil.
local function string_end(text, at)
  repeat
    at = text:find('["\\]', at + 1)
    if not at then return nil end
    local escape = text:byte(at) == 92
    if escape then at = at + 1 end
  until not escape
  return at
end

-- Where the number or word that begins at `at` ends, or nil where it is none.
local function scalar_end(text, at)
  local word = text:match("^%l+", at)
  if word then return (word == "true" or word == "false" or word == "null") and at + #word - 1 or nil end
  local digits = text:match("^%-?%d[%d.eE+-]*", at)
  local value = digits and tonumber(digits)
  -- What is larger than any double would be written as null.
  return value and value - value == 0 and at + #digits - 1 or nil
end

-- What must come after a value: by what the value stands in.
local after = { ["["] = "comma or ]", ["{"] = "comma or }" }
local opens = { ["["] = "value or ]", ["{"] = "name or }" }

-- What is wrong with `text` as JSON, or nil. dkjson recurses (deep text would end in its stack's overflow), and takes
-- comments, names that are no strings, lists without commas, and whatever follows: none of which anyone else would.
local function problem_of(text)
  local stack, wanted, at = {}, "value", 1
  while true do
    at = text:find("[^ \t\r\n]", at)
    if not at then return wanted ~= "end" and "it ends early" or nil end
    local character, last = text:sub(at, at), at
    if character == wanted:sub(-1) and (character == "]" or character == "}") then
      stack[#stack] = nil
      wanted = after[stack[#stack]] or "end"
    elseif wanted:sub(1, 5) == "comma" and character == "," then
      wanted = stack[#stack] == "[" and "value" or "name"
    elseif wanted == "colon" and character == ":" then
      wanted = "value"
    elseif wanted:sub(1, 4) == "name" and character == '"' then
      last, wanted = string_end(text, at), "colon"
    elseif wanted:sub(1, 5) == "value" and opens[character] then
      stack[#stack + 1] = character
      wanted = opens[character]
      if #stack > DEPTH_MAX then return "it is nested too deeply" end
    elseif wanted:sub(1, 5) == "value" then
      last = (character == '"' and string_end or scalar_end)(text, at)
      wanted = after[stack[#stack]] or "end"
    else
      return ("byte %d is not what must stand there: a %s"):format(at, wanted)
    end
    if not last then return ("what begins at byte %d has no end or no meaning"):format(at) end
    at = last + 1
  end
end

--- The value of `text`, or nil and an error (EPROTO) that names `what`. At most `max` bytes (1 MiB) are looked at.
function M.decode(text, what, max)
  if #text > (max or 1 << 20) then
    return nil, errors.new { op = "read JSON", subject = what, name = "EFBIG", message = #text .. " bytes are too many",
      status = errors.status.data }
  end
  local problem, value, _ = problem_of(text), nil, nil
  -- Its tables are plain ones: dkjson would give them metatables of its own.
  if not problem then value, _, problem = dkjson.decode(text, 1, nil, nil, nil) end
  if problem or value == nil then
    return nil, errors.new { op = "read JSON", subject = what, name = "EPROTO", status = errors.status.data,
      message = problem or "it holds nothing" }
  end
  return value
end

return M
