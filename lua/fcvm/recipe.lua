-- SPDX-License-Identifier: Apache-2.0
--- Recipes: Lua files over the API. A user's own directory ($FCVM_RECIPES, else $XDG_CONFIG_HOME/fcvm/recipes) comes
-- before the built-in one, so a command's own recipe can be replaced by its user.
local uv = require "luv"
local args = require "fcvm.args"
local errors = require "fcvm.errors"
local paths = require "fcvm.paths"
local task = require "fcvm.task"

local M = {}

--- The directories that recipes are looked for in, first one first.
function M.directories()
  local own = os.getenv "FCVM_RECIPES"
  if not own or own == "" then
    own = (os.getenv "XDG_CONFIG_HOME" or (uv.os_homedir() or "/root") .. "/.config") .. "/fcvm/recipes"
  end
  return { own, paths.prefix() .. "/share/fcvm/recipes" }
end

--- The path of a recipe: a file's, or the name of one in the directories, with or without ".lua". Raises ENOENT.
function M.find(name)
  if name:find "/" or (name:match "%.lua$" and uv.fs_stat(name)) then
    if uv.fs_stat(name) then return name end
    errors.raise { op = "find recipe", subject = name, name = "ENOENT", message = "there is no such file" }
  end
  local base = name:gsub("%.lua$", "")
  for _, directory in ipairs(M.directories()) do
    local path = directory .. "/" .. base .. ".lua"
    if uv.fs_stat(path) then return path end
  end
  local known = {}
  for _, entry in ipairs(M.list()) do known[#known + 1] = entry.name end
  local near = errors.nearest(base, known)
  errors.raise { op = "find recipe", subject = name, name = "ENOENT", message = "there is no such recipe",
    hint = near and ("did you mean '%s'?"):format(near) or "fcvm recipe ls lists them" }
end

--- All recipes: {name=, path=, about= its first comment}, by name; a user's hides the built-in of its name.
function M.list()
  local seen, list = {}, {}
  for _, directory in ipairs(M.directories()) do
    local scan = uv.fs_scandir(directory)
    while scan do
      local entry = uv.fs_scandir_next(scan)
      if not entry then break end
      local name = entry:match "^([%w_-]+)%.lua$"
      if name and not seen[name] then
        seen[name] = true
        local about
        for line in io.lines(directory .. "/" .. entry) do
          about = line:match "^%-%-%-%s*(.+)$"
          if about or not line:match "^%-%-" then break end
        end
        list[#list + 1] = { name = name, path = directory .. "/" .. entry, about = about }
      end
    end
  end
  table.sort(list, function(a, b) return a.name < b.name end)
  return list
end

--- Runs a recipe's file with its arguments in the current task. Returns its exit status: what it returned if that is an
-- integer, else 0. `program` is its name in messages.
function M.run(path, argv, program)
  local chunk, problem = loadfile(path, "t")
  if not chunk then
    errors.raise { op = "load recipe", subject = path, name = "EINVAL", message = problem, status = errors.status.data }
  end
  args.argv, args.program = argv, program or "fcvm recipe run " .. path
  local result = task.scope(chunk, table.unpack(argv))
  return math.tointeger(result) or 0
end

return M
