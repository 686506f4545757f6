-- SPDX-License-Identifier: Apache-2.0
--- Other programs: an argument vector is run, its output collected, its failure an error that says why.
local uv = require "luv"
local core = require "fcvm.core"
local errors = require "fcvm.errors"
local task = require "fcvm.task"

local M = {}

local KNOWN = { stdin = "string", env = "table", cwd = "string", timeout = "number", on_stdout = "function",
  on_stderr = "function", max_output = "integer", contain = "boolean", check = "boolean", op = "string" }

-- The environment with `added` in it, as a list; a value of false takes a variable out.
local function environment(added)
  local all = uv.os_environ()
  for key, value in pairs(added or {}) do all[key] = value end
  local list = {}
  for key, value in pairs(all) do
    if value then list[#list + 1] = key .. "=" .. tostring(value) end
  end
  return list
end

-- Reads `fd` (taken) to its end as a task: each chunk goes to `sink`.
local function drain(fd, sink)
  local pipe = uv.new_pipe(false)
  errors.check_uv("open pipe", nil, pipe:open(fd))
  return task.spawn(function()
    local ok, failed = pcall(task.await, function(resume)
      pipe:read_start(function(failure, chunk)
        if chunk then
          local fine, problem = pcall(sink, chunk)
          if fine then return end
          failure = problem
        end
        pipe:read_stop()
        resume(failure)
      end)
      return function() pipe:read_stop() end
    end)
    pipe:close()
    if not ok or failed then error(failed, 0) end
  end)
end

local function feed(fd, data)
  local pipe = uv.new_pipe(false)
  errors.check_uv("open pipe", nil, pipe:open(fd))
  pipe:write(data, function() if not pipe:is_closing() then pipe:close() end end)
end

local function collector(limit, also, what)
  local parts, size = {}, 0
  return parts, function(chunk)
    if also then return also(chunk) end
    size = size + #chunk
    if size > limit then
      error(errors.new { op = "read output of", subject = what, name = "EFBIG",
        message = ("more than %d bytes"):format(limit) }, 0)
    end
    parts[#parts + 1] = chunk
  end
end

local function last_lines(text, n)
  local lines = {}
  for line in text:gmatch("[^\r\n]+") do lines[#lines + 1] = line end
  return table.concat(lines, "; ", math.max(1, #lines - n + 1))
end

--- Waits for a child of core.proc.spawn. Returns {status=} or {signal=}.
function M.wait(child)
  local ended = child:wait()
  while not ended do
    task.readable(child:fileno(), nil, "the end of a program")
    ended = child:wait()
  end
  return ended
end

--- Runs the vector in `options` (its list part) to its end.
--
-- Options: stdin (string), env (added to ours; false removes), cwd, timeout (seconds), on_stdout and on_stderr (called
-- with each chunk, which is then not collected), max_output (bytes collected of each, 8 MiB), contain (true: all that it
-- starts dies with it, and it with us), check (true: a status other than 0 raises), op (for errors, "run").
-- Returns {status=, signal=, stdout=, stderr=, seconds=}.
function M.run(options)
  local argv, rest = {}, {}
  for key, value in pairs(options) do
    if math.type(key) == "integer" then argv[key] = tostring(value) else rest[key] = value end
  end
  errors.options("run", rest, KNOWN)
  local what = argv[1]
  local began = task.now()
  return task.scope(function()
    local fds, ours = {}, {}
    local function pipe(number, writing)
      local reader, writer = errors.check(core.proc.pipe())
      fds[number], ours[number] = writing and reader or writer, writing and writer or reader
    end
    if options.stdin then pipe(0, true) end
    pipe(1)
    pipe(2)
    local child, err = core.proc.spawn { argv = argv, env = environment(options.env), cwd = options.cwd, fds = fds,
      session = true, contain = options.contain ~= false }
    for _, fd in pairs(fds) do core.proc.close(fd) end
    if not child then
      for _, fd in pairs(ours) do core.proc.close(fd) end
      err.hint = err.hint or (err.name == "ENOENT" and "fcvm setup preflight says what is missing" or nil)
      error(errors.wrap(err, options.op or "run", what), 0)
    end
    task.defer(function() child:close() end)
    local limit = options.max_output or (8 << 20)
    local out, out_sink = collector(limit, options.on_stdout, what)
    local bad, bad_sink = collector(limit, options.on_stderr, what)
    local readers = { drain(ours[1], out_sink), drain(ours[2], bad_sink) }
    if options.stdin then feed(ours[0], options.stdin) end
    local ended
    task.timeout(options.timeout, what .. " to end", function()
      ended = M.wait(child)
      -- A descendant that is not contained may keep the pipes; what it says after the end is not waited for.
      for _, reader in ipairs(readers) do reader:join() end
    end)
    local result = { status = ended.status, signal = ended.signal, stdout = table.concat(out),
      stderr = table.concat(bad), seconds = task.now() - began }
    if options.check ~= false and result.status ~= 0 then
      local why = last_lines(result.stderr, 3)
      local how = result.signal and ("was ended by signal %d"):format(result.signal)
        or ("ended with status %d"):format(result.status)
      errors.raise { op = options.op or "run", subject = what, name = "EIO", result = result,
        message = why ~= "" and ("%s: %s"):format(how, why) or how }
    end
    return result
  end)
end

return M
