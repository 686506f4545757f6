-- SPDX-License-Identifier: Apache-2.0
-- Fails where something that users see is not documented: a bound function, a call of the API, a recipe and its options.
-- Run from the top of the tree; reads files alone.
local problems = {}
local function problem(...) problems[#problems + 1] = (...):format(select(2, ...)) end

local function read(path)
  local file <close> = assert(io.open(path))
  return file:read "a"
end

-- The tracked files and those that git would take, below a place.
local function files(where)
  local list = {}
  local pipe <close> = assert(io.popen(("git ls-files --cached --others --exclude-standard -- '%s'"):format(where)))
  for line in pipe:lines() do
    local file = io.open(line)
    if file then
      file:close()
      list[#list + 1] = line
    end
  end
  return list
end

local pages = {}
for _, path in ipairs(files "docs/*.md") do pages[#pages + 1] = read(path) end
local docs = table.concat(pages, "\n")
local api, manual = read "docs/lua-api.md", read "docs/man/fcvm.1.scd"

local function has(text, what) return text:find(what, 1, true) ~= nil end

-- Bindings: what luaL_Reg tables name, metamethods and the table of nouns apart.
for _, path in ipairs(files "core/lua/*.c") do
  if path ~= "core/lua/core.c" then
    for name in read(path):gmatch '{"(%l[%w_]*)", [%l_][%w_]*}' do
      -- As noun.name(, object:name( or name{.
      if not docs:find("[.:]" .. name .. " ?[({]") then problem("%s: '%s' is in no page of docs/", path, name) end
    end
  end
end

-- The entry: what it has itself and what it loads when it is first used.
local init = read "lua/fcvm/init.lua"
local modules = {}
for name in init:gmatch "\n  (%l+) = task%." do modules[name] = false end
for name in init:gmatch "\nfunction M%.(%l+)" do modules[name] = false end
local lazy = assert(init:match "local lazy = (%b{})", "init.lua has no table of what it loads")
for name, module, key in lazy:gmatch '([%l_]+) = { "fcvm%.([%w_.]+)"(,?)' do modules[name] = key == "" and module or false end
for name, module in pairs(modules) do
  if not has(api, "fcvm." .. name) then problem("docs/lua-api.md: fcvm.%s is missing", name) end
  if module and module ~= "core" then
    local path = "lua/fcvm/" .. module:gsub("%.", "/")
    local file = io.open(path .. ".lua")
    if file then file:close() end
    path = file and path .. ".lua" or path .. "/init.lua"
    local before = ""
    for line in io.lines(path) do
      local call = line:match "^function M%.([%w_]+)"
      if call and not has(api, ("fcvm.%s.%s"):format(name, call)) then
        problem("docs/lua-api.md: fcvm.%s.%s is missing", name, call)
      end
      local method = line:match "^function %u%w*:(%l[%w_]*)"
      if method and not has(api, ":" .. method) then problem("docs/lua-api.md: :%s of %s is missing", method, path) end
      if (call or method) and not before:match "^%s*%-%-" then problem("%s: %s has no comment", path, call or method) end
      before = line
    end
  end
end
for method in read("lua/fcvm/vm.lua"):gmatch "\nfunction VM:(%l[%w_]*)" do
  if not has(api, "vm:" .. method) then problem("docs/lua-api.md: vm:%s is missing", method) end
end

-- The manual's sections by the last word of their headings: "run", "sanity" of "test sanity".
local sections = {}
for heading, text in (manual:gsub("\n(##?) ", "\n\0%1 ") .. "\0"):gmatch "%z## ([^\n]+)\n(%Z*)" do
  sections[heading:match "[%w-]+$"] = text
end

-- Recipes: a first comment, a description, and all arguments in the manual. They are run up to their arguments.
local anything
anything = setmetatable({}, { __index = function() return anything end, __call = function() return anything end,
  __concat = function() return "" end })

local function declared(path)
  local spec, options
  local fcvm = setmetatable({ args = function(...)
    spec, options = ...
    error "enough"
  end }, { __index = anything })
  local env = setmetatable({ require = function(name) return name == "fcvm" and fcvm or anything end }, { __index = _G })
  pcall(assert(loadfile(path, "t", env)))
  return spec, options
end

local function shown(key, entry)
  local positional = type(entry) == "table" and (entry.positional or entry[1] == "rest")
  return positional and (entry.metavar or key):upper() or "--" .. key:gsub("_", "-")
end

for _, path in ipairs(files "recipes/*.lua") do
  local name = path:match "([%w_-]+)%.lua$"
  if not read(path):match "^[^\n]*\n%-%-%- [^\n]+\n" then
    problem("%s: its second line is no '--- ' that says what it is", path)
  end
  local spec, options = declared(path)
  if not spec then problem("%s: it declares no arguments", path) end
  if not (options and options.description) then problem("%s: its arguments have no description", path) end
  if not sections[name] then problem("docs/man/fcvm.1.scd: it has no section that ends with '%s'", name) end
  for key, entry in pairs(sections[name] and spec or {}) do
    if not has(sections[name], shown(key, entry)) then problem("docs/man/fcvm.1.scd: %s has no %s", name, shown(key, entry)) end
  end
end

-- Commands of the command line.
for name in read("lua/fcvm/cli.lua"):match("local commands = (%b{})"):gmatch '{ "(%l+)",' do
  if not sections[name] then problem("docs/man/fcvm.1.scd: the command %s is missing", name) end
end

table.sort(problems)
for _, text in ipairs(problems) do print(text) end
os.exit(#problems == 0)
