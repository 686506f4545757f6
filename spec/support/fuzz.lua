-- SPDX-License-Identifier: Apache-2.0
--- A mutation fuzzer for parsers written in Lua: seeds are damaged at random, and what comes of it is looked at.
--
-- A run is decided by its seed: FUZZ_SEED, else 1, else (where FUZZ_SECONDS asks for a long one) the time. A failure names
-- seed and round and leaves the input in build/test/fuzz-lua-TARGET.
local errors = require "fcvm.errors"
local json = require "fcvm.json"

local M = {}

local STEPS = 200 * 1000 * 1000 -- Lua instructions for one input
local SECONDS, MEBIBYTES = 5, 256
local TEXT_MAX = 8192           -- bytes of an error's text
local EVERY = 10000             -- instructions between two looks

M.seconds = tonumber(os.getenv "FUZZ_SECONDS") or 5
M.seed = tonumber(os.getenv "FUZZ_SEED") or (os.getenv "FUZZ_SECONDS" and os.time()) or 1

local random = math.random

local function pick(list) return list[random(#list)] end

local bytes = { "\0", "\255", "\n", '"', "\\", "{", "}", "[", "]", ":", ",", "/", "/*", "*/", "//", "-", ".", "0", "9", "e", " ",
  "..", "../", "null", "true", "1e400", "-1", "9223372036854775807", "9223372036854775808", "\239\187\191", "\27[2J", "%s", "=" }

local edits = {
  function(text, at) return text:sub(1, at - 1) .. string.char(random(0, 255)) .. text:sub(at + 1) end,
  function(text, at)
    return text:sub(1, at - 1) .. string.char((text:byte(at) or 0) ~ (1 << random(0, 7))) .. text:sub(at + 1)
  end,
  function(text, at) return text:sub(1, at - 1) .. pick(bytes) .. text:sub(at) end,
  function(text, at) return text:sub(1, at - 1) .. pick(bytes) .. text:sub(at + 1) end,
  function(text, at) return text:sub(1, at - 1) .. text:sub(at + random(1, 64)) end,
  function(text, at) return text:sub(1, at - 1) .. text:sub(random(#text + 1), at + random(0, 64)) .. text:sub(at) end,
  function(text, at) return text:sub(1, at - 1) end,
  function(text, at) return text:sub(1, at - 1) .. pick(bytes):rep(random(1, 3000)) .. text:sub(at) end,
}

--- Damages bytes.
function M.bytes(text)
  for _ = 1, random(1, 4) do text = pick(edits)(text, random(#text + 1)) end
  return text
end

-- Values that one hardly expects; functions, so that each is fresh.
local odd = {
  function() return json.null end, function() return true end, function() return false end, function() return "" end,
  function() return 0 end, function() return -1 end, function() return 1.5 end, function() return math.maxinteger end,
  function() return math.mininteger end, function() return 1 << 46 end, function() return 2e300 end,
  function() return ("x"):rep(random(1, 100000)) end, function() return "\0" end, function() return "../../etc/passwd" end,
  function() return "sha256:" .. ("A"):rep(64) end, function() return json.array {} end, function() return json.object {} end,
  function() return { json.null, "x" } end, function() return { a = 1 } end, function() return "\27]0;x\7" end,
  function() return { { { {} } } } end, function() return ("9"):rep(random(1, 400)) end,
}

local function keys_of(value)
  local keys = {}
  for key in pairs(value) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  return keys
end

local function copy(value)
  if type(value) ~= "table" or value == json.null then return value end
  local out = setmetatable({}, getmetatable(value))
  for key, inner in pairs(value) do out[key] = copy(inner) end
  return out
end

-- Goes down to a place at random and changes what is there.
local function change(value)
  local keys = type(value) == "table" and value ~= json.null and keys_of(value) or {}
  if #keys == 0 then return pick(odd)() end
  local key = pick(keys)
  if type(value[key]) == "table" and random(4) > 1 then
    value[key] = change(value[key])
    return value
  end
  local how = random(6)
  if how <= 3 then value[key] = pick(odd)()
  elseif how == 4 then value[key] = nil
  elseif how == 5 then value[pick(keys)] = copy(value[key])
  elseif type(key) == "string" then value[pick { "", "n", "x", key .. key, "\0", "a/b" }] = value[key]
  else value[#value + 1] = copy(value[key]) end
  return value
end

--- Damages JSON: as text, or a value in it.
function M.json(text)
  if random(3) == 1 then return M.bytes(text) end
  local value = copy((json.decode(text, "seed", 4 << 20)))
  for _ = 1, random(1, 3) do value = change(value) end
  return json.encode(value) or "null"
end

local function with_checksum(block)
  local sum = 8 * 32
  for i = 1, 148 do sum = sum + block:byte(i) end
  for i = 157, 512 do sum = sum + block:byte(i) end
  return block:sub(1, 148) .. ("%06o\0 "):format(sum) .. block:sub(157)
end

local fields = { { 1, 100 }, { 101, 8 }, { 109, 8 }, { 117, 8 }, { 125, 12 }, { 137, 12 }, { 157, 1 }, { 158, 100 }, { 258, 6 },
  { 330, 8 }, { 338, 8 }, { 346, 155 } }
local values = { "", "0", "7", "77777777777", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "8", "-1", " 1 ", "..", "/",
  "a/../b", "x", "g", "L", "K", "5", "\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", "\0\0\0", "1\n2" }

-- One header with a field made odd and its checksum right again: damage that gets past the checksum.
local function header(block)
  for _ = 1, random(1, 2) do
    local field, value = pick(fields), pick(values)
    if random(4) == 1 then value = string.char(random(0, 255)):rep(random(field[2])) end
    value = (value .. ("\0"):rep(field[2])):sub(1, field[2])
    block = block:sub(1, field[1] - 1) .. value .. block:sub(field[1] + field[2])
  end
  return with_checksum(block)
end

-- A pax header of one odd record.
local function pax()
  local record = " " .. pick { "size", "path", "linkpath", "uid", "gid", "mtime", "SCHILY.xattr.user.x", "=" } .. "=" ..
    pick { "-1024", "1e3", "1e400", "0x10", "0.5", "9223372036854775807", "99999999999999999999", "-1", "", "..",
      "a/../../b", "\0", "7", ("x"):rep(300) } .. "\n"
  local size = #record + 2
  if size > 99 then size = size + 1 end
  local data = size .. record
  local head = "pax" .. ("\0"):rep(97) .. "0000644\0" .. "0000000\0" .. "0000000\0" .. ("%011o\0"):format(#data) ..
    "00000000000\0" .. (" "):rep(8) .. pick { "x", "g" } .. ("\0"):rep(100) .. "ustar\00000" .. ("\0"):rep(247)
  return with_checksum(head) .. data .. ("\0"):rep(-#data % 512)
end

--- Damages a tar archive: its bytes, a header with a right checksum, or by a pax header of its own.
function M.tar(data)
  local how, blocks = random(4), #data // 512
  if how == 1 then return M.bytes(data) end
  local at = random(0, math.max(0, blocks - 1)) * 512
  if how == 2 then return data:sub(1, at) .. pax() .. data:sub(at + 1) end
  local block = data:sub(at + 1, at + 512)
  if #block < 512 or block:find "^%z+$" then return M.bytes(data) end
  return data:sub(1, at) .. header(block) .. data:sub(at + 513)
end

-- Calls fn(input) under bounds. Returns as pcall; raises where a bound is crossed, which no parser can catch since the
-- look is taken again after it.
local function bounded(fn, input)
  local before, steps, most, began = collectgarbage "count", 0, 0, os.clock()
  local broken
  debug.sethook(function()
    steps = steps + EVERY
    most = math.max(most, collectgarbage "count" - before)
    if steps > STEPS then broken = "it does not end" elseif most > MEBIBYTES << 10 then broken = "it takes too much memory" end
    if broken then error(broken, 0) end
  end, "", EVERY)
  local out = table.pack(pcall(fn, input))
  debug.sethook()
  if os.clock() - began > SECONDS then broken = ("it takes %.1f s"):format(os.clock() - began) end
  if collectgarbage "count" - before > MEBIBYTES << 10 then broken = "it takes too much memory" end
  if broken then return "broken", broken end
  return table.unpack(out, 1, out.n)
end

-- What is wrong with an error, or nil.
local function problem_of(err)
  if type(err) ~= "table" or type(err.op) ~= "string" then return "no structured error: " .. tostring(err):sub(1, 400) end
  local code, text = errors.exit_status(err), tostring(err)
  -- 64 to 66: what was given is wrong; 78: it is no part of fcvm.
  if not (code >= errors.status.usage and code <= errors.status.missing_input or code == errors.status.config) then
    return "status " .. code .. ": " .. text:sub(1, 400)
  end
  if #text > TEXT_MAX then return ("an error of %d bytes: %s"):format(#text, text:sub(1, 200)) end
end

--- Fuzzes `target` {name=, seeds= {text, …}, mutate=, parse= function(text), which returns a value, or nil and an error, or
-- raises one; check= function(value), which raises where the value is not what it must be} for `seconds`. Returns rounds.
function M.run(target, seconds)
  math.randomseed(M.seed)
  local rounds, values_seen, errors_seen = 0, 0, 0
  local function report(problem, input)
    local path = "build/test/fuzz-lua-" .. target.name
    local file = io.open(path, "wb")
    if file then
      file:write(input)
      file:close()
    end
    error(("%s: seed %d, round %d (%s): %s"):format(target.name, M.seed, rounds, path, problem), 0)
  end
  local ends = os.clock() + seconds
  local inputs = table.move(target.seeds, 1, #target.seeds, 1, {})
  while os.clock() < ends or rounds < #target.seeds + 20 do
    rounds = rounds + 1
    if rounds % 100 == 1 then collectgarbage() end
    local input = target.seeds[rounds] or target.mutate(pick(inputs))
    local ok, value, err = bounded(target.parse, input)
    if ok == "broken" then report(value, input) end
    if not ok or value == nil then
      errors_seen = errors_seen + 1
      local problem = problem_of(ok and err or value)
      if problem then report(problem, input) end
      if rounds <= #target.seeds and not target.bad_seeds then report("this seed is sound: " .. tostring(err or value), input) end
    else
      values_seen = values_seen + 1
      local sound, why = pcall(target.check or tostring, value)
      if not sound then report("what it gives: " .. tostring(why), input) end
      -- What is taken after damage leads further in.
      if #input < 65536 and #inputs < 400 then inputs[#inputs + 1] = input end
    end
  end
  return { rounds = rounds, values = values_seen, errors = errors_seen }
end

return M
