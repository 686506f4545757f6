-- SPDX-License-Identifier: Apache-2.0
-- Fails where a file knows of what stands beside or above it: the two tables of who may include and who may require whom.
-- Run from the top of the tree; reads files alone.
local problems = {}
local function problem(...) problems[#problems + 1] = (...):format(select(2, ...)) end

-- C folders and the folders whose headers they may include beside their own.
local includes = {
  base = {}, proc = { "base" }, net = { "base" }, disk = { "base" }, http = { "base" }, guest = { "base" },
  vmm = { "base", "http" }, uffd = { "base", "proc", "disk" },
  lua = { "base", "proc", "net", "disk", "http", "guest", "vmm", "uffd" },
  agent = { "base", "guest" },
}

-- Modules of lua/fcvm, lowest first. Each may require those of its own row and of the rows before, and while it is loaded
-- never in a circle. What is required inside a function, when it is called, may also stand above: an object's method that
-- makes another object.
local rows = {
  { "errors", "json", "log", "pretty", "base64", "task", "stream", "machine", "paths", "unix",
    "ipv4" },
  { "args", "process", "http", "progress", "plot", "report", "control" },
  { "health", "state", "network", "logfile", "stats", "setup", "image", "firecracker", "guest", "pages", "snapshot", "resources",
    "gc", "net", "publish", "usernet", "resolvers", "dns_relay", "lan", "dns_message", "egress", "egress_names", "preflight" },
  { "owner", "capture", "restore", "verdicts", "supervised", "vm", "server", "supervisor", "serve" },
  { "recipe", "editor", "repl", "init", "cli", "fork_server" },
}
-- Who may load what is not fcvm's own.
local foreign = { luv = true, ["fcvm.core"] = true, dkjson = { json = true }, argparse = { args = true } }

local function files(where)
  local list = {}
  local pipe <close> = assert(io.popen(("git ls-files --cached --others --exclude-standard -- '%s'"):format(where)))
  for path in pipe:lines() do list[#list + 1] = path end
  return list
end

local function lines(path)
  local file = io.open(path) -- one that was removed, and that git does not know of yet, is none
  return file and file:lines() or function() end
end

for _, where in ipairs { "core/*.[ch]", "agent/*.[ch]" } do
  for _, path in ipairs(files(where)) do
    local folder = path:match "^core/([^/]+)/" or path:match "^agent"
    local may = { [folder] = true }
    if not includes[folder] then problem("%s: its folder is not in the table of tests/check/layers.lua", path) end
    for _, name in ipairs(includes[folder] or {}) do may[name] = true end
    for line in lines(path) do
      local other = line:match '^%s*#%s*include%s+"([^/"]+)/'
      if other and not may[other] then problem("%s: it includes %s, and must not", path, other) end
      if line:match "#%s*include%s+[<\"]lua" and folder ~= "lua" then problem("%s: it includes Lua", path) end
    end
  end
end

local row_of = {}
for i, row in ipairs(rows) do
  for _, name in ipairs(row) do row_of[name] = i end
end

-- A module's place in the table: that of itself or of what it is a part of.
local function place(module) return row_of[module] or row_of[module:match "^[^.]+"] end

local requires = {}
for _, path in ipairs(files "lua/fcvm/*.lua") do
  local module = path:match("^lua/fcvm/(.*)%.lua$"):gsub("/", "."):gsub("(.)%.init$", "%1")
  requires[module] = {}
  if not place(module) then problem("%s: it is not in the table of tests/check/layers.lua", path) end
  for line in place(module) and lines(path) or function() end do
    local code = line:match "^%s*%-%-" and "" or line
    for name in code:gmatch 'require%s*%(?%s*"([^"]+)"' do
      local other = name:match "^fcvm%.(.+)$" or name == "fcvm" and "init"
      local allowed = foreign[name]
      if allowed then
        if allowed ~= true and not allowed[module] then problem("%s: it requires %s, and must not", path, name) end
      elseif not other then
        problem("%s: it requires %s, which nobody may", path, name)
      elseif line:match "^local " then
        if place(other) and place(other) > place(module) then
          problem("%s: it requires %s, which stands above it", path, name)
        end
        table.insert(requires[module], other)
      end
    end
  end
end

local state = {}
local function visit(module, way)
  if state[module] == "done" then return end
  way = way .. module
  if state[module] then return problem("modules require each other in a circle: %s", way) end
  state[module] = "under way"
  for _, other in ipairs(requires[module] or {}) do visit(other, way .. " > ") end
  state[module] = "done"
end
local names = {}
for module in pairs(requires) do names[#names + 1] = module end
table.sort(names)
for _, module in ipairs(names) do visit(module, "") end

table.sort(problems)
for _, text in ipairs(problems) do print(text) end
os.exit(#problems == 0)
