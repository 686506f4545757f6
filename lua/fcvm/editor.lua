-- SPDX-License-Identifier: Apache-2.0
--- A line editor on libuv's terminal: editing never stops the loop, so that VMs, logs and health go on between keys.
-- (readline would: it reads in a call that blocks.) Emacs keys, history, nothing else; docs/repl.md has the list.
local uv = require "luv"
local stream = require "fcvm.stream"

local M = {}
M.__index = M

local LINE_MAX, HISTORY_MAX = 65536, 1000

--- An editor on descriptors 0 and 1. `history` is a file's path, or nil.
function M.new(history)
  local self = setmetatable({ keys = stream.queue(), history = {}, file = history, pending = "" }, M)
  self.input, self.output = uv.new_tty(0, true), uv.new_tty(1, false)
  for line in history and uv.fs_stat(history) and io.lines(history) or function() end do
    self.history[#self.history + 1] = (line:gsub("\\n", "\n"))
  end
  self.input:set_mode(1)
  self.input:read_start(function(_, data)
    if data then self.keys:push(data) else self.keys:finish() end
  end)
  return self
end

--- Puts the terminal back and writes the history.
function M:close()
  self.input:set_mode(0)
  self.input:close()
  self.output:close()
  local file = self.file and io.open(self.file, "w")
  if not file then return end
  for i = math.max(1, #self.history - HISTORY_MAX + 1), #self.history do
    file:write((self.history[i]:gsub("\n", "\\n")), "\n")
  end
  file:close()
end

-- The next key: a character (UTF-8), a control character, or a name for an escape sequence.
local sequences = { ["[A"] = "up", ["[B"] = "down", ["[C"] = "right", ["[D"] = "left", ["[H"] = "home", ["[F"] = "end",
  ["OH"] = "home", ["OF"] = "end", ["[1~"] = "home", ["[4~"] = "end", ["[3~"] = "delete" }

local function next_key(self)
  while true do
    local text = self.pending
    local sequence = text:match "^\27([%[O][%d;]*[%a~])"
    if sequence then
      self.pending = text:sub(#sequence + 2)
      return sequences[sequence] or "unknown"
    elseif text ~= "" and not text:match "^\27[%[O]?[%d;]*$" then
      local character = text:match("^[%z\1-\127]") or text:match("^[\194-\244][\128-\191]+") or text:sub(1, 1)
      self.pending = text:sub(#character + 1)
      return character
    end
    local more = self.keys:pop()
    if not more then return nil end
    self.pending = text .. more
  end
end

local function width(text) return utf8.len(text) or #text end

local function draw(self, prompt, line, at)
  self.output:write(("\r\27[K%s%s\r\27[%dC"):format(prompt, line, width(prompt) + width(line:sub(1, at))))
end

local function before(line, at)
  local from = utf8.offset(line, -1, at + 1)
  return from and from - 1 or math.max(0, at - 1)
end

local function after(line, at)
  return (utf8.offset(line, 2, at + 1) or #line + 1) - 1
end

local edits = {
  ["\1"] = function(line) return line, 0 end,
  ["\5"] = function(line) return line, #line end,
  ["\2"] = function(line, at) return line, at > 0 and before(line, at) or 0 end,
  ["\6"] = function(line, at) return line, at < #line and after(line, at) or at end,
  ["\11"] = function(line, at) return line:sub(1, at), at end,
  ["\21"] = function(line, at) return line:sub(at + 1), 0 end,
  ["\23"] = function(line, at)
    local head = line:sub(1, at):gsub("%S*%s*$", "")
    return head .. line:sub(at + 1), #head
  end,
  ["\127"] = function(line, at)
    if at == 0 then return line, at end
    local from = before(line, at)
    return line:sub(1, from) .. line:sub(at + 1), from
  end,
  delete = function(line, at)
    return at < #line and line:sub(1, at) .. line:sub(after(line, at) + 1) or line, at
  end,
}
edits.home, edits["end"], edits.left, edits.right = edits["\1"], edits["\5"], edits["\2"], edits["\6"]
edits["\8"] = edits["\127"]

--- Reads a line at `prompt`. Returns it; nil at the end of input (Ctrl-D on an empty line); false for Ctrl-C.
function M:read(prompt)
  local line, at, place = "", 0, #self.history + 1
  draw(self, prompt, line, at)
  while true do
    local key = next_key(self)
    if not key or (key == "\4" and line == "") then
      self.output:write "\r\n"
      return nil
    elseif key == "\3" then
      self.output:write "^C\r\n"
      return false
    elseif key == "\r" or key == "\n" then
      self.output:write "\r\n"
      return line
    elseif key == "up" or key == "\16" or key == "down" or key == "\14" then
      local step = (key == "up" or key == "\16") and -1 or 1
      place = math.max(1, math.min(#self.history + 1, place + step))
      line = (self.history[place] or ""):gsub("\n", " ")
      at = #line
    elseif key == "\12" then
      self.output:write "\27[H\27[2J"
    elseif key == "\4" then
      line, at = edits.delete(line, at)
    elseif edits[key] then
      line, at = edits[key](line, at)
    elseif #key <= 4 and key:byte() >= 32 and #line < LINE_MAX then
      line, at = line:sub(1, at) .. key .. line:sub(at + 1), at + #key
    end
    draw(self, prompt, line, at)
  end
end

--- Remembers an entry for the next "up".
function M:remember(entry)
  if entry ~= "" and self.history[#self.history] ~= entry then self.history[#self.history + 1] = entry end
end

return M
