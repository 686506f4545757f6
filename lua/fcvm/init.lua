-- SPDX-License-Identifier: Apache-2.0
--- fcvm: the whole API of recipes. Straight-line code: every call that waits yields its task.
--
--     local fcvm = require "fcvm"
--     local vm <close> = fcvm.run { image = "nginx:alpine", name = "web", health = { port = 80 } }:wait "healthy"
--     print(vm:request { port = 80 }.body)
--
-- Calls raise structured errors ({op, subject, errno, name, message, hint}; `tostring` reads as a sentence). What is
-- started belongs to a scope and is ended with it. docs/lua-api.md is the reference.
local task = require "fcvm.task"

local M = {
  parallel = task.parallel,
  first = task.first,
  spawn = task.spawn,
  scope = task.scope,
  defer = task.defer,
  sleep = task.sleep,
  now = task.now,
}

--- Runs `fn` for at most `seconds`; raises ETIMEDOUT past them.
function M.timeout(seconds, fn) return task.timeout(seconds, "a step of the recipe", fn) end

--- Runs `fn` as the root task with the loop: for stock Lua and busted. The fcvm binary does this for recipes.
function M.main(fn) return task.main(fn) end

-- Loaded when first used: a command pays for what it needs alone.
local lazy = {
  run = { "fcvm.vm", "run" }, vm = { "fcvm.vm", "find" }, vms = { "fcvm.vm", "list" },
  args = { "fcvm.args", "read" }, log = { "fcvm.log" }, progress = { "fcvm.progress" }, report = { "fcvm.report" },
  process = { "fcvm.process" }, image = { "fcvm.image" }, setup = { "fcvm.setup" }, core = { "fcvm.core" },
  errors = { "fcvm.errors" }, json = { "fcvm.json" }, paths = { "fcvm.paths" }, state = { "fcvm.state" },
  snapshot = { "fcvm.snapshot", "find" }, snapshots = { "fcvm.snapshot", "list" },
  remove_snapshot = { "fcvm.snapshot", "remove" }, server = { "fcvm.server", "find" },
  servers = { "fcvm.server", "list" }, sweep = { "fcvm.resources", "sweep" }, gc = { "fcvm.gc" },
  net = { "fcvm.net" }, stream = { "fcvm.stream" },
  pages = { "fcvm.pages" }, port_text = { "fcvm.publish", "text" },
}

return setmetatable(M, { __index = function(_, key)
  local where = lazy[key]
  if not where then return nil end
  local value = require(where[1])
  if where[2] then value = value[where[2]] end
  M[key] = value
  return value
end })
