-- SPDX-License-Identifier: Apache-2.0
--- Tasks: straight-line code over luv's loop, with scopes that end what was begun in them.
--
-- A task is a coroutine. `await` is the one place where it waits: it hands a `resume` function to whatever will call
-- back, and may be cancelled there. Every task has a stack of scopes; what is deferred in a scope runs when the scope
-- ends, newest first, however it ends; tasks that were spawned in it are cancelled and joined first.
local uv = require "luv"
local errors = require "fcvm.errors"

local M = {}
local current -- the task that runs now, or nil between callbacks

local Task = { __name = "fcvm.task" }
Task.__index = Task

local function finish(t, ok, ...)
  t.done, t.ok, t.results = true, ok, table.pack(...)
  local waiters = t.waiters
  t.waiters = {}
  for _, wake in ipairs(waiters) do wake() end
end

local function step(t, ...)
  local outer = current
  current = t
  local out = table.pack(coroutine.resume(t.co, ...))
  current = outer
  if coroutine.status(t.co) ~= "dead" then return end
  if out[1] then finish(t, table.unpack(out, 2, out.n)) else finish(t, false, out[2]) end
end

--- Waits for a callback. `start(resume)` begins something and may return a function that undoes it, which is called
-- where the task is cancelled meanwhile. Returns what `resume` was given; its first call counts, later ones are ignored.
-- Only in a task; raises the cancellation.
function M.await(start)
  local t = current
  if not t then error("fcvm: a call that waits was made outside of a task; wrap the program in fcvm.main(fn)", 2) end
  if t.cancel_with then
    local reason = t.cancel_with
    t.cancel_with = nil
    error(reason, 0)
  end
  local token, results = {}, nil
  t.token = token
  local function resume(...)
    if t.token ~= token then return end
    t.token, t.undo = nil, nil
    results = table.pack(...)
    if t.yielded then
      t.yielded = false
      step(t, "resumed")
    end
  end
  local undo = start(resume)
  if not results then
    t.undo, t.yielded = undo, true
    local how, reason = coroutine.yield()
    if how == "cancelled" then error(reason, 0) end
  end
  return table.unpack(results, 1, results.n)
end

--- The task that runs now, or nil.
function M.current() return current end

--- Is the caller in a task?
function M.running() return current ~= nil end

--- Monotonic time in seconds.
function M.now() return uv.hrtime() / 1e9 end

--- Waits for `seconds`.
function M.sleep(seconds)
  local timer = uv.new_timer()
  M.await(function(resume)
    timer:start(math.max(0, math.ceil(seconds * 1000)), 0, function()
      timer:close()
      resume()
    end)
    return function() timer:close() end
  end)
end

-- Runs and empties a scope: its tasks first, then what was deferred, newest first. Returns the first error of the latter.
local function end_scope(scope)
  local failure
  for i = #scope, 1, -1 do
    local entry = table.remove(scope, i)
    if getmetatable(entry) == Task then
      if not entry.done then
        entry:cancel()
        pcall(entry.wait, entry)
      end
    else
      local ok, err = pcall(entry)
      if not ok and not failure then failure = err end
    end
  end
  return failure
end

--- Runs `fn(...)` in a scope of its own and returns what it returns. At its end, by return, error or cancellation, tasks
-- spawned in it are cancelled and what was deferred runs, newest first.
function M.scope(fn, ...)
  local t = current
  if not t then error("fcvm: a scope needs a task", 2) end
  local scope = {}
  t.scopes[#t.scopes + 1] = scope
  local out = table.pack(pcall(fn, ...))
  local failure = end_scope(scope)
  table.remove(t.scopes)
  if not out[1] then error(out[2], 0) end
  if failure then error(failure, 0) end
  return table.unpack(out, 2, out.n)
end

--- Has `fn` called at the end of the innermost scope. Returns a function that runs it now instead (once), and one that moves
-- it to another scope.
function M.defer(fn)
  local scope = current.scopes[#current.scopes]
  local entry
  local pending = true
  entry = function()
    if not pending then return end
    pending = false
    return fn()
  end
  scope[#scope + 1] = entry
  local function leave()
    for i = #scope, 1, -1 do
      if scope[i] == entry then table.remove(scope, i) end
    end
  end
  return function()
    leave()
    return entry()
  end, function(other)
    leave()
    scope = other
    scope[#scope + 1] = entry
  end
end

-- What a branch gives back outlives it: values whose metatable has __adopt are moved to the scope around.
local function adopt(scope, values)
  for i = 1, values.n do
    local meta = getmetatable(values[i])
    if type(meta) == "table" and meta.__adopt then meta.__adopt(values[i], scope) end
  end
end

local function start(fn, ...)
  local t = setmetatable({ scopes = {}, waiters = {}, yielded = false }, Task)
  t.co = coroutine.create(function(...)
    -- A task that was cancelled before it began has nothing to undo.
    if t.cancel_with then return false, t.cancel_with end
    return pcall(M.scope, fn, ...)
  end)
  return t, table.pack(...)
end

--- Starts `fn(...)` as a task of its own in the current scope and runs it until it first waits. Returns the task:
-- `t:join()` waits and gives its results or raises its error, `t:cancel(reason)` raises in it where it waits.
function M.spawn(fn, ...)
  local t, arguments = start(fn, ...)
  if current then
    local scope = current.scopes[#current.scopes]
    scope[#scope + 1] = t
  end
  step(t, table.unpack(arguments, 1, arguments.n))
  return t
end

--- Starts `fn(...)` as a task that belongs to no scope: it goes on whoever began it. Returns the task.
function M.background(fn, ...)
  local outer = current
  current = nil
  local t = M.spawn(fn, ...)
  current = outer
  return t
end

-- Waits until the task is done; never raises its error.
function Task:wait()
  while not self.done do
    M.await(function(resume)
      self.waiters[#self.waiters + 1] = resume
    end)
  end
end

--- Waits for the task; returns its results or raises its error.
function Task:join()
  self:wait()
  if not self.ok then error(self.results[1], 0) end
  return table.unpack(self.results, 1, self.results.n)
end

--- Raises `reason` (an error; by default ECANCELED) in the task, where it waits or at its next wait.
function Task:cancel(reason)
  if self.done then return end
  reason = reason or errors.new { op = "task", name = "ECANCELED", message = "cancelled", cancelled = true }
  if self.token and self.yielded then
    local undo = self.undo
    self.token, self.undo, self.yielded = nil, nil, false
    if undo then undo() end
    step(self, "cancelled", reason)
  else
    self.cancel_with = reason
  end
end

--- Runs `fn(...)` for at most `seconds`; past them it is cancelled and ETIMEDOUT raised, which says what was waited for.
function M.timeout(seconds, what, fn, ...)
  if not seconds then return fn(...) end
  local t = current
  local late = errors.new { op = "wait", name = "ETIMEDOUT",
    message = ("waited %g s for %s"):format(seconds, what or "it"), timeout = true }
  local child
  local timer = uv.new_timer()
  local out = table.pack(pcall(M.scope, function(...)
    child = M.spawn(fn, ...)
    if not child.done then
      timer:start(math.max(1, math.ceil(seconds * 1000)), 0, function() child:cancel(late) end)
    end
    return child:join()
  end, ...))
  if not timer:is_closing() then timer:close() end
  assert(current == t)
  if not out[1] then error(out[2], 0) end
  return table.unpack(out, 2, out.n)
end

--- Waits until the descriptor `fd` (borrowed) can be read; `timeout` in seconds or nil; `what` is for its error.
function M.readable(fd, timeout, what)
  local function wait()
    local poll = errors.check_uv("poll", what, uv.new_poll(fd))
    M.await(function(resume)
      poll:start("r", function()
        poll:close()
        resume()
      end)
      return function() poll:close() end
    end)
  end
  if timeout then return M.timeout(timeout, what, wait) end
  return wait()
end

--- Waits until the descriptor `fd` (borrowed) can be read, but at most `seconds`. Returns whether it can.
function M.readable_within(fd, seconds)
  local poll, timer = errors.check_uv("poll", nil, uv.new_poll(fd)), uv.new_timer()
  local function close()
    poll:close()
    timer:close()
  end
  return M.await(function(resume)
    poll:start("r", function()
      close()
      resume(true)
    end)
    timer:start(math.ceil(seconds * 1000), 0, function()
      close()
      resume(false)
    end)
    return close
  end)
end

--- Runs `fn(i)` for 1..n, or `fn(item, i)` for a list, as tasks at once (at most `limit` at a time). Results in order.
-- `on_error = "cancel"` (the default) cancels the others at the first error and raises it; "collect" gives
-- {ok=, value=, error=} for each. What a branch started ends with it; a VM or server that it returns belongs to the caller's
-- scope from then on.
function M.parallel(what, fn, options)
  options = errors.options("parallel", options or {}, { limit = "integer", on_error = "string" })
  local items = type(what) == "table" and what or nil
  local n = items and #items or what
  local collect = options.on_error == "collect"
  local around = current.scopes[#current.scopes]
  return M.scope(function()
    local results, running, next_index, failure, wake = {}, 0, 1, nil, nil
    local function branch(i)
      local out
      if items then out = table.pack(pcall(fn, items[i], i)) else out = table.pack(pcall(fn, i)) end
      if out[1] then adopt(around, out) end
      if collect then
        results[i] = out[1] and { ok = true, value = out[2] } or { ok = false, error = out[2] }
      elseif out[1] then
        results[i] = out[2]
      else
        failure = failure or { out[2] }
      end
      running = running - 1
      if wake then wake() end
    end
    while next_index <= n or running > 0 do
      if failure then error(failure[1], 0) end
      if next_index <= n and running < (options.limit or n) then
        running, next_index = running + 1, next_index + 1
        M.spawn(branch, next_index - 1)
      else
        M.await(function(resume) wake = resume end)
        wake = nil
      end
    end
    if failure then error(failure[1], 0) end
    return results
  end)
end

--- Runs `fn` as parallel does; the first that succeeds gives the result, the others are cancelled and cleaned.
-- Raises the last error where none succeeds.
function M.first(what, fn)
  local items = type(what) == "table" and what or nil
  local n = items and #items or what
  local around = current.scopes[#current.scopes]
  return M.scope(function()
    local winner, failure, left, wake = nil, nil, n, nil
    for i = 1, n do
      M.spawn(function()
        local out
        if items then out = table.pack(pcall(fn, items[i], i)) else out = table.pack(pcall(fn, i)) end
        left = left - 1
        if out[1] and not winner then
          winner = out
          adopt(around, out)
        elseif not out[1] then
          failure = out[2]
        end
        if wake then wake() end
      end)
      if winner then break end
    end
    while not winner and left > 0 do
      M.await(function(resume) wake = resume end)
      wake = nil
    end
    if winner then return table.unpack(winner, 2, winner.n) end
    error(failure or errors.new { op = "first", message = "there was nothing to try" }, 0)
  end)
end

--- Has `fn(number, count)` asked first when a signal comes (see main); where it returns true, the program goes on.
function M.on_signal(fn) M.signal_handler = fn end

--- Runs `fn(...)` as the root task and the loop until it is done; returns its results or raises its error. With
-- `options.signals`, SIGINT and SIGTERM cancel it (the error has `.signal`); a second one exits at once with 128+n.
function M.main(fn, options)
  local t = start(fn)
  local handles = {}
  -- The fcvm binary ignores SIGPIPE; under stock Lua a reader that went away would end the process.
  handles[1] = uv.new_signal()
  handles[1]:start("sigpipe", function() end)
  handles[1]:unref()
  if options and options.signals then
    local count = 0
    for name, number in pairs { sigint = 2, sigterm = 15 } do
      local handle = uv.new_signal()
      handles[#handles + 1] = handle
      handle:start(name, function()
        count = count + 1
        if M.signal_handler and M.signal_handler(number, count) then return end
        if count > 1 then os.exit(128 + number) end
        t:cancel(errors.new { op = "fcvm", name = "EINTR", message = name:upper(), signal = number, status = 128 + number })
      end)
      handle:unref()
    end
  end
  step(t)
  while not t.done do
    if not uv.run("once") and not t.done then
      error("fcvm: the program waits, but nothing is under way that could wake it", 0)
    end
  end
  for _, handle in ipairs(handles) do handle:close() end
  -- Closing callbacks that are due now would otherwise keep their handles for the next loop.
  uv.run("nowait")
  if not t.ok then error(t.results[1], 0) end
  return table.unpack(t.results, 1, t.results.n)
end

return M
