-- SPDX-License-Identifier: Apache-2.0
--- The command line: finds the recipe that a command is, and runs it. What a command does stands in recipes/.
local uv = require "luv"
local errors = require "fcvm.errors"
local log = require "fcvm.log"

local M = {}
M.version = "0.1.0"

-- A command, its recipe and what --help says of it.
local commands = {
  { "run", "run", "run a container in a microVM of its own (also: fcvm podman run)" },
  { "exec", "exec", "run a command in a running VM's container" },
  { "ls", "ls", "list the running VMs" },
  { "inspect", "inspect", "show all that is known of a VM" },
  { "logs", "logs", "show what a VM's container wrote" },
  { "stop", "stop", "stop VMs" },
  { "snapshot", "snapshot", "make, list, inspect and remove snapshots; serve one; run a clone" },
  { "sweep", "sweep", "remove what killed VMs left" },
  { "gc", "gc", "list and remove what has no living owner" },
  { "uffd", "uffd", "serve a memory file to any Firecracker (uffd serve), page by page" },
  { "setup", "setup", "make what fcvm needs: Firecracker, kernel, root file system; preflight checks the host" },
}

local usage = [[
Usage: fcvm [--data-dir DIR] [--log LEVEL] COMMAND [ARGUMENTS]

%s
  recipe run    run a recipe: a file, or the name of one of `fcvm recipe ls`
  recipe ls     list the recipes
  test sanity   run the sanity recipe
  repl          use the Lua API interactively
  version       print the version

`fcvm COMMAND --help` tells more of each. The data directory is %s.
]]

-- Commands of two words, and the names that they had earlier.
local longer = { snapshot = { serve = "serve", run = "clone" } }
local earlier = { ["memory-server"] = "serve", clone = "clone" }

-- --help of what is no recipe.
local help = {
  podman = [[
Usage: fcvm podman run [OPTIONS] IMAGE [COMMAND...]

The same as fcvm run: fcvm podman run --help tells more.
]],
  recipe = [[
Usage: fcvm recipe run FILE|NAME [ARGUMENTS]
       fcvm recipe ls [--json]

Runs a Lua file over fcvm's API (docs/lua-api.md), or lists those that have a name: the files in $FCVM_RECIPES (else
$XDG_CONFIG_HOME/fcvm/recipes), which come first, and the built-in ones. Each has --help.
]],
  test = [[
Usage: fcvm test NAME [ARGUMENTS]

Runs the recipe of this name as a test; exit status 0 is a pass. There are: sanity, stress.
]],
  repl = [[
Usage: fcvm repl

Runs lines of Lua with the API as `fcvm`. Lines are read from stdin; docs/repl.md lists the keys of a terminal.
]],
  version = "Usage: fcvm version\n",
}

local function is_help(word) return word == "--help" or word == "-h" end

local function print_usage(to)
  local lines = {}
  for _, command in ipairs(commands) do lines[#lines + 1] = ("  %-13s %s"):format(command[1], command[3]) end
  to:write(usage:format(table.concat(lines, "\n"), require("fcvm.paths").data()))
end

local function usage_error(message, hint)
  errors.raise { op = "fcvm", name = "EINVAL", message = message, hint = hint or "fcvm --help", status = errors.status.usage }
end

-- Options that stand before the command. Returns the index of the command, and a command that an option stands for.
local function global_options(argv)
  local i = 1
  while argv[i] and argv[i]:sub(1, 1) == "-" do
    local name, value = argv[i]:match "^(%-%-[%w-]+)=?(.*)$"
    if name == "--help" or argv[i] == "-h" then return i, "help" end
    if name == "--version" then return i, "version" end
    if name ~= "--data-dir" and name ~= "--log" then usage_error(("there is no option '%s'"):format(argv[i])) end
    if value == "" then
      i = i + 1
      value = argv[i]
    end
    if not value then usage_error(name .. " needs a value") end
    if name == "--data-dir" then require("fcvm.paths").set_data(value)
    else
      local ok = pcall(log.set_level, value)
      if not ok then usage_error("--log takes error, warn, info or debug") end
      uv.os_setenv("FCVM_LOG", value)
    end
    i = i + 1
  end
  return i
end

local function run_recipe(name, argv, program)
  local recipe = require "fcvm.recipe"
  return require("fcvm.task").main(function()
    return recipe.run(recipe.find(name), argv, program)
  end, { signals = true })
end

local function rest_of(argv, from) return table.move(argv, from, #argv, 1, {}) end

local function recipe_command(argv, i)
  local action = argv[i]
  if action == "run" and argv[i + 1] then
    return run_recipe(argv[i + 1], rest_of(argv, i + 2), "fcvm recipe run " .. argv[i + 1])
  elseif action == "ls" then
    local json = argv[i + 1] == "--json"
    if argv[i + 1] and not json then usage_error(("recipe ls has no '%s'"):format(argv[i + 1]), "fcvm recipe --help") end
    require "fcvm.report" { title = "recipes", columns = { "name", "about", "path" },
      rows = require("fcvm.recipe").list(), json = json }
    return 0
  end
  usage_error("it is recipe run FILE|NAME, or recipe ls", "fcvm recipe --help")
end

local dispatch
function dispatch(argv)
  local i, instead = global_options(argv)
  local command = instead or argv[i]
  if command == nil then
    print_usage(io.stderr)
    return errors.status.usage
  elseif command == "help" then
    if not instead and argv[i + 1] then return dispatch { argv[i + 1], "--help" } end
    print_usage(io.stdout)
    return 0
  elseif help[command] and (is_help(argv[i + 1]) or command == "recipe" and is_help(argv[i + 2])
    and (argv[i + 1] == "run" or argv[i + 1] == "ls")) then
    io.stdout:write(help[command])
    return 0
  elseif command == "version" then
    print("fcvm " .. M.version)
    return 0
  elseif command == "supervise" then
    return require("fcvm.supervisor").main()
  elseif command == "serve-pages" then
    return require("fcvm.serve").main()
  elseif command == "repl" then
    return require("fcvm.repl").main(rest_of(argv, i + 1))
  elseif command == "recipe" then
    return recipe_command(argv, i + 1)
  elseif command == "test" then
    if not argv[i + 1] or argv[i + 1]:sub(1, 1) == "-" then
      usage_error("it needs a test's name: fcvm test sanity", "fcvm test --help")
    end
    return run_recipe(argv[i + 1], rest_of(argv, i + 2), "fcvm test " .. argv[i + 1])
  elseif command == "podman" then
    if argv[i + 1] ~= "run" then usage_error("of podman's commands there is 'podman run' alone", "fcvm podman --help") end
    return run_recipe("run", rest_of(argv, i + 2), "fcvm podman run")
  end
  local names = { "podman", "recipe", "repl", "test", "version", "help" }
  local second = longer[command] and longer[command][argv[i + 1]]
  if second then return run_recipe(second, rest_of(argv, i + 2), ("fcvm %s %s"):format(command, argv[i + 1])) end
  if earlier[command] then return run_recipe(earlier[command], rest_of(argv, i + 1), "fcvm " .. command) end
  for _, known in ipairs(commands) do
    if known[1] == command then return run_recipe(known[2], rest_of(argv, i + 1), "fcvm " .. command) end
    names[#names + 1] = known[1]
  end
  local near = errors.nearest(command, names)
  usage_error(("there is no command '%s'"):format(command), near and ("did you mean '%s'?"):format(near) or nil)
end

--- Runs the command of `argv` (as Lua's `arg`) and returns the exit status. Errors are printed here, once.
function M.main(argv)
  local ok, result = pcall(dispatch, argv)
  io.stdout:flush()
  if ok then return result end
  local signal = type(result) == "table" and result.signal
  if not signal then
    if type(result) == "table" and not getmetatable(result) then result = errors.new(result) end
    log.error("%s", tostring(result))
  end
  return errors.exit_status(result)
end

return M
