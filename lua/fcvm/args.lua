-- SPDX-License-Identifier: Apache-2.0
--- A recipe's declared arguments, read by lua-argparse.
--
--     local args = fcvm.args {
--       image = { "string", "image to run" },                 -- --image, required
--       count = { "integer", "clones", default = 10 },
--       quiet = { "boolean", "say less" },                    -- a flag
--       env   = { "string", "variable", many = true, short = "-e", metavar = "K=V" }, -- a list; --help says -e, --env K=V
--       file  = { "string", "what to read", positional = 1 }, -- no option: the first argument
--       cmd   = { "rest", "command" },                        -- all after the positional ones, as it stands
--     }
local argparse = require "argparse"
local errors = require "fcvm.errors"
local machine = require "fcvm.machine"

local M = {}

local WIDTH = 80 -- of --help

-- What runs now, set by the runner of recipes.
M.argv, M.program = {}, "recipe"

local convert = {
  string = function(text) return text end,
  pairs = function(text)
    local key, value = text:match "^([^=]+)=(.*)$"
    key, value = key or text, value or os.getenv(text)
    return value and { key, value } or nil, "K=V, nor the name of a variable that is set"
  end,
  integer = function(text) return math.tointeger(tonumber(text)), "an integer" end,
  number = function(text) return tonumber(text), "a number" end,
  size = function(text)
    local ok, bytes = pcall(machine.size, text)
    return ok and bytes or nil, "a size such as 512M"
  end,
}

local function converter(kind)
  return function(text)
    local value, wanted = convert[kind](text)
    if value == nil then return nil, ("'%s' is not %s"):format(text, wanted) end
    return value
  end
end

local function normalise(spec)
  local list = {}
  for name, entry in pairs(spec) do
    if type(entry) == "string" then entry = { entry } end
    local kind = entry[1]
    if kind ~= "boolean" and kind ~= "rest" and not convert[kind] then
      errors.raise { op = "declare arguments", subject = name, name = "EINVAL",
        message = ("'%s' is no type: string, integer, number, size, pairs, boolean or rest"):format(tostring(kind)) }
    end
    list[#list + 1] = { name = name, kind = kind, text = entry[2] or "", default = entry.default,
      many = entry.many or kind == "pairs", short = entry.short, positional = entry.positional, required = entry.required,
      metavar = entry.metavar }
  end
  table.sort(list, function(a, b)
    local x, y = a.positional or 99, b.positional or 99
    if x ~= y then return x < y end
    return a.name < b.name
  end)
  return list
end

local function option_name(entry) return "--" .. entry.name:gsub("_", "-") end

-- What stands for a value in usages: --mem MEM, IMAGE.
local function placeholder(entry)
  local usual = not entry.positional and ({ integer = "N", size = "SIZE", pairs = "K=V" })[entry.kind]
  return entry.metavar or usual or (entry.name:gsub("_", "-"):upper())
end

-- Gives an element one line in --help. (argparse would give each of an option's names a line of its own.)
local function label(element, text)
  element._get_label_lines = function() return { text } end
end

local function add_positional(parser, entry, text)
  local many = entry.kind == "rest" or entry.many
  local argument = parser:argument(entry.name):description(text):argname(placeholder(entry))
  argument:args(many and "*" or entry.required == false and "?" or 1)
  if entry.kind ~= "rest" then argument:convert(converter(entry.kind)) end
  label(argument, placeholder(entry) .. (many and "..." or ""))
end

local function add_option(parser, entry, text)
  local names = (entry.short and entry.short .. " " or "") .. option_name(entry)
  if entry.kind == "boolean" then
    parser:flag(names):target(entry.name):description(text)
    return
  end
  local option = parser:option(names):target(entry.name):description(text):convert(converter(entry.kind)):args(1)
    :argname(placeholder(entry))
  if entry.many then option:count "*" elseif entry.default == nil and entry.required ~= false then option:count(1) end
  label(option, names:gsub(" ", ", ") .. " " .. placeholder(entry))
end

local function add(parser, entry)
  local text = entry.text
  if entry.default ~= nil then text = text .. (" (default %s)"):format(tostring(entry.default)) end
  local how = (entry.positional or entry.kind == "rest") and add_positional or add_option
  how(parser, entry, text)
end

-- What stands after the positional arguments belongs to the command that is run, options included, as with podman.
local function split_rest(list, argv)
  local takes_value, positional, has_rest = {}, 0, false
  for _, entry in ipairs(list) do
    if entry.kind == "rest" then has_rest = true
    elseif entry.positional then positional = positional + 1
    elseif entry.kind ~= "boolean" then
      takes_value[option_name(entry)] = true
      if entry.short then takes_value[entry.short] = true end
    end
  end
  if not has_rest then return argv, nil end
  local head, i = {}, 1
  while i <= #argv do
    local word = argv[i]
    head[#head + 1] = word
    if word:sub(1, 1) == "-" and word ~= "-" and word ~= "--" then
      if takes_value[word] then
        i = i + 1
        head[#head + 1] = argv[i]
      end
    elseif word ~= "--" then
      positional = positional - 1
      if positional == 0 then return head, table.move(argv, i + 1, #argv, 1, {}) end
    end
    i = i + 1
  end
  return head, {}
end

local function map_of(list)
  if not list or #list == 0 then return nil end
  local map = {}
  for _, pair in ipairs(list) do map[pair[1]] = pair[2] end
  return map
end

--- Reads this recipe's arguments; see above. A wrong one ends the program with the usage and status 64, --help with 0.
-- `options.report` says what fcvm.report can do for it: --json and --plot are added where it is nil, --json where it is
-- "json", none where it is false. `description` is for --help.
function M.read(spec, options)
  options = options or {}
  local list = normalise(spec)
  local parser = argparse(M.program):usage_max_width(WIDTH):help_max_width(WIDTH):help_description_margin(28)
  if options.description then parser:description(options.description) end
  for _, entry in ipairs(list) do add(parser, entry) end
  if options.report ~= false and not spec.json then parser:flag "--json":description "give the report as JSON" end
  if options.report == nil and not spec.plot then
    label(parser:option "--plot":argname "FILE":description "write a chart of the report to this file, as SVG", "--plot FILE")
  end
  local head, rest = split_rest(list, M.argv)
  if rest and rest[1] == "--" then table.remove(rest, 1) end
  local ok, result = parser:pparse(head)
  if not ok then
    errors.raise { op = M.program, name = "EINVAL", message = tostring(result), status = errors.status.usage,
      hint = M.program .. " --help" }
  end
  for _, entry in ipairs(list) do
    if entry.kind == "rest" then result[entry.name] = rest end
    if entry.kind == "pairs" then result[entry.name] = map_of(result[entry.name]) end
    if result[entry.name] == nil and entry.default ~= nil then result[entry.name] = entry.default end
  end
  M.json, M.plot = result.json or false, result.plot
  return result
end

return M
