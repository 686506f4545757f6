-- SPDX-License-Identifier: Apache-2.0
--- Progress of a long step: a bar on a terminal, one plain line at its end when piped. It ends by `done` or `fail`, or with
-- the scope that it was made in.
--
--     local bar <close> = progress("kernel", 40 << 20, { unit = "bytes" })
--     bar:step(4096); bar:done("6.1.0-40")
local uv = require "luv"
local log = require "fcvm.log"
local task = require "fcvm.task"

local WIDTH, INTERVAL = 28, 0.08
local Bar = { __name = "fcvm.progress" }
Bar.__index = Bar
local shown -- the bar on the terminal's last line, of which there is one

local function amount(bar, n)
  if bar.unit ~= "bytes" then return tostring(math.floor(n)) end
  return ("%.1f MiB"):format(n / (1 << 20))
end

local function draw(bar)
  local text = bar.title
  if bar.total and bar.total > 0 then
    local part = math.min(1, bar.value / bar.total)
    local full = math.floor(part * WIDTH)
    text = ("%s [%s%s] %3d %%  %s of %s"):format(text, ("#"):rep(full), ("."):rep(WIDTH - full), math.floor(part * 100),
      amount(bar, bar.value), amount(bar, bar.total))
  elseif bar.value > 0 then
    text = ("%s  %s"):format(text, amount(bar, bar.value))
  else
    text = text .. " …"
  end
  if bar.note then text = text .. "  " .. bar.note end
  -- A line that wraps could not be taken back.
  local after = utf8.len(text) and utf8.offset(text, bar.columns)
  io.stderr:write("\r\27[K", after and text:sub(1, after - 1) or text:sub(1, 4 * bar.columns))
end

-- How wide the terminal is; 80 where it does not say.
local function columns()
  local terminal = uv.new_tty(2, false)
  local width = terminal and terminal:get_winsize()
  if terminal then terminal:close() end
  return width and width > 0 and width or 80
end

local function clear() if shown then io.stderr:write("\r\27[K") end end

local function hide(bar)
  if shown == bar then
    clear()
    shown = nil
    log.around(nil, nil)
  end
end

local function update(bar)
  if not bar.terminal or bar.finished then return end
  local now = uv.hrtime() / 1e9
  if shown ~= bar then
    shown = bar
    log.around(clear, function() if shown then draw(shown) end end)
  elseif now - bar.drawn < INTERVAL then
    return
  end
  bar.drawn = now
  draw(bar)
end

--- Sets the value reached. --
function Bar:set(value, total) self.value, self.total = value, total or self.total; update(self) end
--- Shows a word beside the bar, such as the file at hand. --
function Bar:say(note) self.note = log.printable(note); update(self) end

local function finish(bar, level, text)
  if bar.finished then return end
  hide(bar)
  bar.finished = true
  local seconds = uv.hrtime() / 1e9 - bar.began
  if text ~= false then log[level]("%s: %s", bar.title, text or ("done in %.1f s"):format(seconds)) end
end

--- Ends with a line: `text`, by default the time it took; false for none. --
function Bar:done(text) finish(self, "info", text) end
--- Goes on by `n` (1). The bar is done when it gets to its total. --
function Bar:step(n)
  self:set(self.value + (n or 1))
  if self.total and self.value >= self.total then self:done() end
end
--- Ends with an error line. --
function Bar:fail(text) finish(self, "error", text) end
function Bar:__close(err)
  local text
  if err ~= nil then text = false end
  finish(self, "info", text)
end
Bar.__gc = hide

--- Makes a bar. `total` may be nil where it is not known; options: unit = "bytes". Where its scope ends before it is done it
-- goes without a word. --
return function(title, total, options)
  local terminal = uv.guess_handle(2) == "tty"
  local bar = setmetatable({ title = log.printable(title), total = total, value = 0, drawn = 0, began = uv.hrtime() / 1e9,
    unit = options and options.unit, terminal = terminal, columns = terminal and columns() or 80 }, Bar)
  if task.running() then task.defer(function() finish(bar, "info", false) end) end
  update(bar)
  return bar
end
