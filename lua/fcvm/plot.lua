-- SPDX-License-Identifier: Apache-2.0
--- A report's rows as an SVG chart: a panel for each column of numbers, since their units differ, a bar for each row, or a
-- point where there are many. It stands alone, in any browser; a bar's title tells its value.
local errors = require "fcvm.errors"

local M = {}

local WIDTH, LEFT, RIGHT, TOP = 860, 72, 20, 56
local PANEL, GAP, BOTTOM = 170, 46, 70 -- heights: of a panel's plot, between panels, below the last for the rows' names
local BARS_MAX = 64                    -- rows; more are points
local LABEL_MAX, LABEL_WIDTH = 18, 22  -- characters of a row's name; pixels that one needs beside the next
local COLOURS = { "#33658a", "#f26419", "#55a630", "#9d4edd", "#b5838d", "#2f4858" }

local entities = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

--- Any bytes as XML text: what UTF-8 or XML has no place for becomes U+FFFD.
function M.escape(text)
  text = tostring(text)
  if not utf8.len(text) then text = text:gsub("[\128-\255]", "\u{fffd}") end
  return (text:gsub("[%c\127]", "\u{fffd}"):gsub("\u{fffe}", "\u{fffd}"):gsub("\u{ffff}", "\u{fffd}"):gsub("[&<>\"']", entities))
end

local function is_finite(value) return type(value) == "number" and value - value == 0 end

local function cut(text)
  text = tostring(text)
  local length = utf8.len(text)
  if not length then return text:sub(1, LABEL_MAX) end
  return length > LABEL_MAX and text:sub(1, utf8.offset(text, LABEL_MAX) - 1) .. "…" or text
end

-- The columns that hold numbers alone (and at least one), and the column that names the rows: the first other one.
local function sort_columns(what)
  local numbers, names = {}, nil
  for _, column in ipairs(what.columns) do
    local some, all = false, true
    for _, row in ipairs(what.rows) do
      if row[column] ~= nil then
        some = some or is_finite(row[column])
        all = all and type(row[column]) == "number"
      end
    end
    if some and all then numbers[#numbers + 1] = column elseif not names and not all then names = column end
  end
  return numbers, names
end

--- A step of 1, 2 or 5 times a power of ten that parts `range` into at most `most` pieces.
function M.step(range, most)
  local power = 10 ^ math.floor(math.log(range / most, 10))
  for _, factor in ipairs { 1, 2, 5, 10 } do
    if range / (factor * power) <= most * (1 + 1e-9) then return factor * power end
  end
  return 10 * power
end

local UNITS = { { 1e12, "T" }, { 1e9, "G" }, { 1e6, "M" }, { 1e3, "k" } }

-- A number on an axis: 12 k, 0.25.
local function short(value)
  for _, unit in ipairs(UNITS) do
    if math.abs(value) >= unit[1] then return ("%.4g %s"):format(value / unit[1], unit[2]) end
  end
  return ("%.4g"):format(math.abs(value) < 1e-12 and 0 or value)
end

-- What the values of a column span, with 0 in it, as whole steps of the axis.
local function axis_of(rows, column)
  local least, most = 0, 0
  for _, row in ipairs(rows) do
    if is_finite(row[column]) then least, most = math.min(least, row[column]), math.max(most, row[column]) end
  end
  if least == most then most = 1 end
  -- Halves, since the span of two large numbers may be no number.
  local half = most / 2 - least / 2
  if half > 1e307 or half < 1e-300 then return nil end
  local step = M.step(half * 2, 5)
  return { low = math.floor(least / step) * step, high = math.ceil(most / step) * step, step = step }
end

local function add(out, format, ...) out[#out + 1] = format:format(...) end

-- One column's panel, whose plot begins at `top`.
local function panel(out, what, column, index, top, names)
  local axis = axis_of(what.rows, column)
  if not axis then
    errors.raise { op = "plot", subject = column, name = "EINVAL",
      message = "its numbers are too large or too small to be drawn" }
  end
  local width, count = WIDTH - LEFT - RIGHT, #what.rows
  local colour = COLOURS[(index - 1) % #COLOURS + 1]
  local function y(value) return top + PANEL - (value - axis.low) / (axis.high - axis.low) * PANEL end
  add(out, '<text x="%d" y="%.1f" class="name">%s</text>', LEFT, top - 10, M.escape(column:gsub("_", " ")))
  for i = 0, math.floor((axis.high - axis.low) / axis.step + 0.5) do
    local value = axis.low + i * axis.step
    add(out, '<path d="M%d %.1fH%d" class="grid"/>', LEFT, y(value), WIDTH - RIGHT)
    add(out, '<text x="%d" y="%.1f" class="tick">%s</text>', LEFT - 8, y(value) + 4, short(value))
  end
  local slot = width / count
  for i, row in ipairs(what.rows) do
    local value = row[column]
    if is_finite(value) then
      local title = ("<title>%s: %s</title>"):format(M.escape(names and row[names] or i), M.escape(value))
      local middle = LEFT + (i - 0.5) * slot
      if count > BARS_MAX then
        add(out, '<circle cx="%.1f" cy="%.1f" r="3" fill="%s">%s</circle>', middle, y(value), colour, title)
      else
        local bar = math.min(slot * 0.8, 60)
        add(out, '<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s">%s</rect>', middle - bar / 2,
          math.min(y(value), y(0)), bar, math.max(math.abs(y(value) - y(0)), 0.5), colour, title)
      end
    end
  end
  add(out, '<path d="M%d %.1fH%d" class="axis"/>', LEFT, y(0), WIDTH - RIGHT)
end

-- The rows' names below the last panel, as many as there is room for.
local function labels(out, what, names, top)
  local slot = (WIDTH - LEFT - RIGHT) / #what.rows
  local every = math.ceil(LABEL_WIDTH / slot)
  for i = 1, #what.rows, every do
    local x = LEFT + (i - 0.5) * slot
    add(out, '<text x="%.1f" y="%.1f" class="row" transform="rotate(-35 %.1f %.1f)">%s</text>', x, top, x, top,
      M.escape(cut(names and what.rows[i][names] or i)))
  end
end

--- The chart of {columns=, rows=, title=} (as of fcvm.report) as SVG text. Raises EINVAL where there is no number in it.
function M.svg(what)
  local numbers, names = sort_columns(what)
  if #numbers == 0 then
    errors.raise { op = "plot", subject = what.title, name = "EINVAL", message = "the report has no column of numbers" }
  end
  local height = TOP + #numbers * (PANEL + GAP) + BOTTOM
  local out = {}
  add(out, '<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img">', WIDTH, height, WIDTH,
    height)
  add(out, "<title>%s</title>", M.escape(what.title or "report"))
  add(out, "<style>text{font-family:sans-serif;font-size:12px;fill:#333}.head{font-size:18px;font-weight:bold}" ..
    ".name{font-weight:bold}.tick,.row{text-anchor:end}.grid{stroke:#ddd;fill:none}.axis{stroke:#333;fill:none}</style>")
  add(out, '<rect width="%d" height="%d" fill="#fff"/>', WIDTH, height)
  add(out, '<text x="%d" y="26" class="head">%s</text>', LEFT, M.escape(what.title or "report"))
  local top = TOP + 12
  for index, column in ipairs(numbers) do
    panel(out, what, column, index, top, names)
    top = top + PANEL + GAP
  end
  labels(out, what, names, top - GAP + 18)
  out[#out + 1] = "</svg>\n"
  return table.concat(out, "\n")
end

return M
