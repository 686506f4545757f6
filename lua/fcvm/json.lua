-- SPDX-License-Identifier: Apache-2.0
--- JSON: read by dkjson, which keeps 64-bit integers, once it is known to be JSON; errors in words.
local dkjson = require "dkjson"
local errors = require "fcvm.errors"

local M = { null = dkjson.null }

--- A table that is written as an array even when it is empty.
function M.array(list) return setmetatable(list or {}, { __jsontype = "array" }) end

--- A table that is written as an object even when it is empty.
function M.object(map) return setmetatable(map or {}, { __jsontype = "object" }) end

local DEPTH_MAX = 64

local function refuse(message)
  errors.raise { op = "write JSON", name = "EINVAL", message = message, status = errors.status.internal }
end

-- The length of the array that `value` is, holes included; nil where it is an object. An empty one is an array unless it
-- says otherwise.
local function array_length(value)
  local most, count = 0, 0
  for key in pairs(value) do
    if math.type(key) ~= "integer" or key < 1 then return nil end
    most, count = math.max(most, key), count + 1
  end
  local kind = (getmetatable(value) or {}).__jsontype
  if count == 0 then return kind ~= "object" and 0 or nil end
  return (most <= 10 or most <= 2 * count) and most or nil
end

local function sorted_keys(value)
  local names, by_name = {}, {}
  for key in pairs(value) do
    if type(key) ~= "string" and type(key) ~= "number" then refuse(("a %s is no name"):format(type(key))) end
    local name = tostring(key)
    names[#names + 1], by_name[name] = name, key
  end
  table.sort(names)
  return names, by_name
end

local write

local function write_table(out, value, pad, depth)
  if depth > DEPTH_MAX then refuse "it is nested too deeply" end
  local length = array_length(value)
  local names, by_name
  if not length then names, by_name = sorted_keys(value) end
  local inner = pad and pad .. "  "
  out[#out + 1] = length and "[" or "{"
  for i = 1, length or #names do
    if i > 1 then out[#out + 1] = "," end
    if inner then out[#out + 1] = inner end
    if names then out[#out + 1] = dkjson.quotestring(names[i]) .. ":" end
    write(out, value[names and by_name[names[i]] or i], inner, depth + 1)
  end
  if inner and (length or #names) > 0 then out[#out + 1] = pad end
  out[#out + 1] = length and "]" or "}"
end

local scalars = {
  ["nil"] = function() return "null" end,
  boolean = tostring,
  string = dkjson.quotestring,
  -- What is no number to JSON is null.
  number = function(value)
    if math.type(value) == "integer" then return tostring(value) end
    return value - value == 0 and (("%.14g"):format(value)) or "null"
  end,
}

function write(out, value, pad, depth)
  local scalar = value == M.null and scalars["nil"] or scalars[type(value)]
  if scalar then
    out[#out + 1] = scalar(value)
  elseif type(value) == "table" then
    write_table(out, value, pad, depth)
  else
    refuse(("a %s has no place in it"):format(type(value)))
  end
end

--- Text of a value; `indent` for people. Keys are sorted, so that equal values give equal text. Raises for what has no place in
-- JSON, and for what is nested deeper than 64. (Not dkjson's: that takes {n = 10^12} for an array of that length.)
function M.encode(value, indent)
  local out = {}
  write(out, value, indent and "\n" or nil, 1)
  return table.concat(out)
end

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
