-- SPDX-License-Identifier: Apache-2.0
--- fcvm's log: lines on stderr under hierarchical tags ("web: health: healthy"), coloured on a terminal only.
local uv = require "luv"

local M = {}
M.__index = M

local levels = { error = 1, warn = 2, info = 3, debug = 4 }
local colour = { error = "\27[31m", warn = "\27[33m", debug = "\27[2m" }
local shared = { level = levels[os.getenv "FCVM_LOG"] or levels.info, terminal = uv.guess_handle(2) == "tty" }

-- What comes from a guest or a peer must not drive the reader's terminal.
local function printable(text)
  return (text:gsub("[%c\127]", function(c) return c == "\t" and c or ("\\x%02x"):format(c:byte()) end))
end
M.printable = printable

local function write(self, level, format, ...)
  if levels[level] > shared.level then return end
  local text = select("#", ...) > 0 and format:format(...) or tostring(format)
  local label = (level == "error" or level == "warn") and (level == "warn" and "warning: " or "error: ") or ""
  M.aside(function()
    for line in text:gmatch("[^\n]+") do
      line = self.prefix .. label .. printable(line)
      if shared.terminal and colour[level] then line = colour[level] .. line .. "\27[0m" end
      (shared.file or io.stderr):write(line, "\n")
    end
  end)
end

for level in pairs(levels) do
  --- log.info(format, ...), and warn, error, debug alike. Also as methods of a tagged log: log.tag("web"):info(…).
  M[level] = function(self, ...)
    if type(self) == "table" and self.prefix then return write(self, level, ...) end
    return write(M, level, self, ...)
  end
end

M.prefix = ""

--- A log whose lines start with this tag, after those of the log it is made from. log.tag(name), or tagged:tag(name).
function M.tag(self, name)
  if type(self) == "string" then self, name = M, self end
  return setmetatable({ prefix = self.prefix .. name .. ": " }, { __index = M })
end

--- Sets the least important level that is shown: "error", "warn", "info" or "debug".
function M.set_level(name) shared.level = assert(levels[name], "error, warn, info or debug") end

--- Has the lines go to the end of the file at `path` from now on.
function M.to_file(path)
  local file = io.open(path, "a")
  if not file then return end
  file:setvbuf "line"
  shared.file, shared.terminal = file, false
end

--- Runs `fn`, which writes to the terminal, while the progress bar is out of its way.
function M.aside(fn)
  if shared.before then shared.before() end
  fn()
  if shared.after then shared.after() end
end

--- For a progress bar: functions that clear it before a line and draw it again after.
function M.around(before, after) shared.before, shared.after = before, after end

return M
