-- SPDX-License-Identifier: Apache-2.0
--- The owner of a supervising process, seen from that process: the socket at descriptor 3.
--
-- Over the socket come one line of JSON, what to do, and nothing more: its end means that the owner is gone. Over it go lines of
-- JSON: {event = "state", record} at each change and {event = "end", status, error} at the end. lua/fcvm/supervised.lua is the
-- other side.
local uv = require "luv"
local errors = require "fcvm.errors"
local json = require "fcvm.json"
local log = require "fcvm.log"
local state = require "fcvm.state"
local task = require "fcvm.task"

local M = {}
local Owner = { __name = "fcvm.owner" }
Owner.__index = Owner

local FD = 3
local PLAN_MAX = 1 << 20
local PLAN_SECONDS = 10
local TELL_SECONDS = 2

--- Tells the owner something.
function Owner:tell(message)
  if self.pipe and not self.pipe:is_closing() then self.pipe:write(json.encode(message) .. "\n") end
end

--- Changes fields of the record, writes it and tells the owner.
function Owner:update(record, fields)
  for key, value in pairs(fields) do record[key] = value end
  state.write(record)
  self:tell { event = "state", record = record }
end

--- Reads what to do. `.on_gone`, where it is set, is called when the owner goes.
function Owner:read()
  self.pipe = uv.new_pipe(false)
  errors.check_uv("open", "descriptor " .. FD, self.pipe:open(FD))
  local text, size = {}, 0
  local line = task.timeout(PLAN_SECONDS, "what to do", task.await, function(resume)
    self.pipe:read_start(function(_, chunk)
      if chunk and not self.planned then
        size = size + #chunk
        text[#text + 1] = chunk
        if chunk:find("\n", 1, true) or size > PLAN_MAX then
          self.planned = true
          resume(table.concat(text))
        end
      elseif not chunk then
        resume(nil)
        if self.on_gone then self.on_gone() end
      end
    end)
  end)
  if not line then errors.raise { op = "supervise", message = "its owner ended before it said what to do" } end
  self.options = errors.check(json.decode(line, "what to do", PLAN_MAX))
  return self.options
end

--- Has `fn(number, count)` called at each SIGINT, SIGTERM and SIGQUIT.
function Owner:on_signal(fn)
  for number, name in pairs { [2] = "sigint", [15] = "sigterm", [3] = "sigquit" } do
    local handle = uv.new_signal()
    handle:start(name, function()
      self.signals = (self.signals or 0) + 1
      fn(number, self.signals)
    end)
    handle:unref()
  end
end

local function tell_end(self, status, failure)
  if not self.pipe then return end
  if failure and (self.pipe:is_closing() or (self.options and self.options.detach)) then
    log.error("%s", tostring(failure))
  end
  local message = { event = "end", status = status, error = failure and { op = failure.op, subject = failure.subject,
    errno = failure.errno, name = failure.name, message = failure.message, hint = failure.hint, status = status,
    signal = failure.signal } }
  pcall(task.timeout, TELL_SECONDS, "the owner", task.await, function(resume)
    self.pipe:write(json.encode(message) .. "\n", resume)
  end)
  if not self.pipe:is_closing() then self.pipe:close() end
end

--- Runs `body(owner)` as this process's one job, in a scope; `op` and `owner.subject` are for its error. The owner hears of
-- the end when all that the scope made is gone. Returns the process's exit status: what the body returned or its error's.
function M.run(op, body)
  local self = setmetatable({}, Owner)
  local ok, result = pcall(task.main, function()
    local out = table.pack(pcall(task.scope, body, self))
    local failure = not out[1] and errors.wrap(out[2], op, self.subject) or nil
    local status = failure and errors.exit_status(out[2]) or out[2]
    tell_end(self, status, failure)
    return status
  end)
  if ok then return result end
  log.error("%s", tostring(result))
  return errors.exit_status(result)
end

return M
