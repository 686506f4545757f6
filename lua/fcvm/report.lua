-- SPDX-License-Identifier: Apache-2.0
--- A recipe's result on stdout: a table for people, JSON with --json.
local args = require "fcvm.args"
local errors = require "fcvm.errors"
local json = require "fcvm.json"
local log = require "fcvm.log"

local function cell(value)
  if value == nil then return "-" end
  if math.type(value) == "float" then return ("%.3f"):format(value) end
  -- What a guest or an image named must not drive the reader's terminal.
  return log.printable(tostring(value))
end

--- Prints {columns = {"name", …}, rows = {{name = …}, …}, title =, json = bool}. Numbers stand to the right.
return function(what)
  errors.options("report", what, { title = "string", columns = "table", rows = "table", json = "boolean" })
  if what.json or (what.json == nil and args.json) then
    io.stdout:write(json.encode({ title = what.title, rows = json.array(what.rows) }, true), "\n")
    return
  end
  local widths, right = {}, {}
  for i, name in ipairs(what.columns) do
    widths[i], right[i] = #name, #what.rows > 0
    for _, row in ipairs(what.rows) do
      widths[i] = math.max(widths[i], utf8.len(cell(row[name])) or #cell(row[name]))
      right[i] = right[i] and (row[name] == nil or type(row[name]) == "number")
    end
  end
  local function line(of)
    local parts = {}
    for i, name in ipairs(what.columns) do
      local text = of(name)
      local pad = (" "):rep(widths[i] - (utf8.len(text) or #text))
      parts[i] = right[i] and pad .. text or text .. pad
    end
    io.stdout:write((table.concat(parts, "  "):gsub("%s+$", "")), "\n")
  end
  line(function(name) return name:upper():gsub("_", " ") end)
  for _, row in ipairs(what.rows) do
    line(function(name) return cell(row[name]) end)
  end
end
