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

-- Is `text` nested deeper than any of ours? dkjson recurses, so foreign text could make it work for minutes.
local function too_deep(text)
  local depth, at = 0, 1
  while true do
    at = text:find('[%[%]{}"]', at)
    if not at then return false end
    local character = text:sub(at, at)
    if character == '"' then
      repeat
        at = text:find('["\\]', at + 1)
        if not at then return false end
        local escaped = text:sub(at, at) == "\\"
        if escaped then at = at + 1 end
      until not escaped
    else
      depth = depth + ((character == "[" or character == "{") and 1 or -1)
      if depth > DEPTH_MAX then return true end
    end
    at = at + 1
  end
end

--- The value of `text`, or nil and an error (EPROTO) that names `what`. At most `max` bytes (1 MiB) are looked at.
function M.decode(text, what, max)
  if #text > (max or 1 << 20) then
    return nil, errors.new { op = "read JSON", subject = what, name = "EFBIG", message = #text .. " bytes are too many",
      status = errors.status.data }
  end
  local value, at, problem
  if too_deep(text) then problem = "nested too deeply" else value, at, problem = dkjson.decode(text, 1, nil, nil, nil) end
  if problem or value == nil then
    return nil, errors.new { op = "read JSON", subject = what, name = "EPROTO", status = errors.status.data,
      message = problem or ("ends early at byte %s"):format(at) }
  end
  return value
end

return M
