-- SPDX-License-Identifier: Apache-2.0
--- The Lua API interactively: `fcvm repl`. Each entry runs as a task in one scope, so VMs stay alive between lines and
-- end with the session; an error is shown and never ends it.
local uv = require "luv"
local errors = require "fcvm.errors"
local paths = require "fcvm.paths"
local pretty = require "fcvm.pretty"
local task = require "fcvm.task"

local M = {}

-- As a value to show where it can be one, else as statements. Returns the function, or nil, why, and whether more lines
-- could complete it.
local function compile(text, env)
  local chunk = load("return " .. text, "=repl", "t", env)
  if chunk then return chunk end
  local problem
  chunk, problem = load(text, "=repl", "t", env)
  return chunk, problem, problem and problem:find "<eof>" ~= nil
end
M.compile = compile

local function show(out)
  if not out[1] then
    local err = out[2]
    print(type(err) == "table" and not getmetatable(err) and pretty(err) or tostring(err))
    return
  end
  for i = 2, out.n do print(pretty(out[i])) end
end

-- What the lines see: all globals, the API as `fcvm`, and what they set themselves.
local function environment()
  local env = setmetatable({}, { __index = _G })
  env.fcvm = require "fcvm"
  return env
end

-- Lines of a stdin that is no terminal, for scripts and tests: the same, without a prompt.
local function plain_reader()
  local lines = require("fcvm.stream").queue()
  local feed = require("fcvm.stream").lines(65536, function(line) lines:push(line) end)
  local source = require("fcvm.stream").source(0)
  task.spawn(function()
    for chunk in source do feed(chunk) end
    feed(nil)
    lines:finish()
  end)
  return { read = function() return (lines:pop()) end, remember = function() end, close = function() end }
end

local function terminal_reader()
  local directory = (os.getenv "XDG_STATE_HOME" or (uv.os_homedir() or "/root") .. "/.local/state") .. "/fcvm"
  local ok = pcall(paths.ensure, directory)
  print "fcvm's Lua API; fcvm.run { image = … } starts a VM, Ctrl-D ends. docs/lua-api.md is the reference."
  return require("fcvm.editor").new(ok and directory .. "/repl-history" or nil)
end

local function loop(reader)
  local env = environment()
  local text = ""
  while true do
    local line = reader:read(text == "" and "fcvm> " or "   .. ")
    if line == nil then return end
    if line == false then
      text = ""
    else
      text = text == "" and line or text .. "\n" .. line
      local chunk, problem, more = compile(text, env)
      if chunk or not more then
        reader:remember(text)
        text = ""
      end
      if chunk then
        show(table.pack(pcall(chunk)))
      elseif not more then
        print((problem:gsub("^repl:", "line ")))
      end
    end
  end
end

--- Runs the session; returns its exit status.
function M.main(argv)
  if argv[1] then
    errors.raise { op = "repl", name = "EINVAL", message = "it takes no arguments", status = errors.status.usage }
  end
  task.main(function()
    local reader = uv.guess_handle(0) == "tty" and terminal_reader() or plain_reader()
    local ok, err = pcall(loop, reader)
    reader:close()
    if not ok then error(err, 0) end
  end, { signals = true })
  return 0
end

return M
