-- SPDX-License-Identifier: Apache-2.0
--- A recipe's result: a table on stdout for people, JSON with --json, and a chart in a file with --plot FILE.svg.
local args = require "fcvm.args"
local core = require "fcvm.core"
local errors = require "fcvm.errors"
local json = require "fcvm.json"
local log = require "fcvm.log"

local function cell(value)
  if value == nil then return "-" end
  if math.type(value) == "float" then return ("%.3f"):format(value) end
  -- What a guest or an image named must not drive the reader's terminal.
  return log.printable(tostring(value))
end

local function length(text) return utf8.len(text) or #text end

local function print_table(what)
  local widths, right = {}, {}
  for i, name in ipairs(what.columns) do
    widths[i], right[i] = length(name), #what.rows > 0
    for _, row in ipairs(what.rows) do
      widths[i] = math.max(widths[i], length(cell(row[name])))
      right[i] = right[i] and (row[name] == nil or type(row[name]) == "number")
    end
  end
  local function line(of)
    local parts = {}
    for i, name in ipairs(what.columns) do
      local text = of(name)
      local pad = (" "):rep(widths[i] - length(text))
      parts[i] = right[i] and pad .. text or text .. pad
    end
    io.stdout:write((table.concat(parts, "  "):gsub("%s+$", "")), "\n")
  end
  line(function(name) return name:upper():gsub("_", " ") end)
  for _, row in ipairs(what.rows) do
    line(function(name) return cell(row[name]) end)
  end
end

--- Prints {columns = {"name", …}, rows = {{name = …}, …}, title =}. Numbers stand to the right. `json` (true: JSON instead of
-- the table) and `plot` (a file for the chart, as SVG) are what --json and --plot say where they are not given.
return function(what)
  errors.options("report", what, { title = "string", columns = "table", rows = "table", json = "boolean", plot = "string" })
  for _, name in ipairs { "columns", "rows" } do
    if not what[name] then errors.raise { op = "report", name = "EINVAL", message = "it needs " .. name } end
  end
  local as_json = what.json
  if as_json == nil then as_json = args.json end
  log.aside(function()
    if as_json then
      io.stdout:write(json.encode({ title = what.title, columns = json.array(what.columns),
        rows = json.array(what.rows) }, true), "\n")
    else
      print_table(what)
    end
    io.stdout:flush()
  end)
  local file = what.plot or args.plot
  if file then
    local ok, err = core.disk.write(file, require("fcvm.plot").svg(what), 420)
    if not ok then error(errors.wrap(err, "write chart " .. file), 0) end
    log.info("the chart is in %s", file)
  end
end
