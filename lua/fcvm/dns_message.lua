-- SPDX-License-Identifier: Apache-2.0
--- Questions and answers of DNS (RFC 1035), as far as egress policies by names and named networks need them. They come from
-- guests and from whoever answers: no length in them is trusted.
local M = {}

local HEADER = 12
local POINTER, LABEL_MAX = 0xc0, 63
local NAME_MAX, LABELS_MAX = 255, 128
local TYPE_A, CLASS_IN = 1, 1
local ANSWER = 0x8080 -- and recursion available
local NAME_ABOVE = 0xc00c -- a pointer to the question's name
local OWN_SECONDS = 5
local NO_SUCH_NAME, FORMAT_ERROR = 3, 1

-- The name at `at`, in lower case and without its last dot, and what stands behind it; nil where there is none. A question's is
-- never compressed; bytes that no host's name has become "?".
local function name_at(text, at)
  local labels, size = {}, 0
  while true do
    local length = text:byte(at)
    if not length or length > LABEL_MAX or #labels > LABELS_MAX then return nil end
    if length == 0 then return table.concat(labels, "."), at + 1 end
    size = size + length + 1
    if size > NAME_MAX or at + length > #text then return nil end
    labels[#labels + 1] = text:sub(at + 1, at + length):lower():gsub("[^%w_-]", "?")
    at = at + length + 1
  end
end

-- What stands behind the name at `at`, which may end in a pointer to an earlier one.
local function behind_name(text, at)
  for _ = 1, LABELS_MAX do
    local length = text:byte(at)
    if not length then return nil end
    if length >= POINTER then return at + 2 end
    if length > LABEL_MAX then return nil end
    at = at + length + 1
    if length == 0 then return at end
  end
end

--- The one question of a message: its name, and where the message goes on behind it. nil where it has not one question.
function M.question(text)
  if #text < HEADER + 5 or (">I2"):unpack(text, 5) ~= 1 then return nil end
  local name, at = name_at(text, HEADER + 1)
  if not name or at + 3 > #text then return nil end
  return name, at + 4
end

--- The name that a message answers, and the addresses of IPv4 that it gives for it: nil, and none where it makes no sense.
function M.addresses(text)
  local name, at = M.question(text)
  local list = {}
  if not name or text:byte(3) < 0x80 then return nil, list end
  for _ = 1, ((">I2"):unpack(text, 7)) do
    at = behind_name(text, at)
    if not at or at + 9 > #text then break end
    local kind, class, _, size = (">I2I2I4I2"):unpack(text, at)
    at = at + 10
    if at + size - 1 > #text then break end
    if kind == TYPE_A and class == CLASS_IN and size == 4 then list[#list + 1] = ("%d.%d.%d.%d"):format(text:byte(at, at + 3)) end
    at = at + size
  end
  return name, list
end

--- The answer that there is no such name; to what is no question, that it is none.
function M.refusal(text)
  local name, at = M.question(text)
  local number = (text .. "\0\0"):sub(1, 2)
  if not name then return number .. (">I2I2I2I2I2"):pack(ANSWER | FORMAT_ERROR, 0, 0, 0, 0) end
  -- With "recursion desired" as it was.
  local flags = ANSWER | NO_SUCH_NAME | (text:byte(3) & 1) << 8
  return number .. (">I2I2I2I2I2"):pack(flags, 1, 0, 0, 0) .. text:sub(HEADER + 1, at - 1)
end

--- The answer to a question whose name has this address of IPv4 and nothing else, for a few seconds.
function M.answer(text, address)
  local _, at = M.question(text)
  local kind, class = (">I2I2"):unpack(text, at - 4)
  local has = kind == TYPE_A and class == CLASS_IN
  local reply = text:sub(1, 2) .. (">I2I2I2I2I2"):pack(ANSWER | (text:byte(3) & 1) << 8, 1, has and 1 or 0, 0, 0)
    .. text:sub(HEADER + 1, at - 1)
  if not has then return reply end
  local bytes = { address:match "^(%d+)%.(%d+)%.(%d+)%.(%d+)$" }
  for i, byte in ipairs(bytes) do bytes[i] = tonumber(byte) end
  return reply .. (">I2I2I2I4I2"):pack(NAME_ABOVE, TYPE_A, CLASS_IN, OWN_SECONDS, 4) .. string.char(table.unpack(bytes))
end

return M
