-- SPDX-License-Identifier: Apache-2.0
--- Structured errors: what this layer raises, and how the core's `nil, err` becomes one.
--
-- An error is a table {op, subject, errno, name, message, hint, status}; `tostring` reads as a sentence: "op subject:
-- message (hint)". `status` is the exit status that the command line ends with; docs/errors.md lists them.
local M = {}

--- Exit statuses, as sysexits.h has them where it has one.
M.status = {
  usage = 64,        -- a wrong option or argument
  data = 65,         -- an image, plan or record that makes no sense
  missing_input = 66, -- an image, VM or file that does not exist
  unavailable = 69,  -- a registry or service that does not answer
  internal = 70,     -- an error of fcvm's own
  system = 71,       -- a system call that failed
  missing_part = 72, -- a part that `fcvm setup` makes
  cannot_create = 73, -- no space, or a directory that cannot be written
  temporary = 75,    -- taken, busy, late: trying again may help
  permission = 77,   -- not allowed
  config = 78,       -- a part that is not what it must be
  guest = 79,        -- the guest failed: panic, no agent, Firecracker ended
  kvm = 80,          -- no KVM, or a KVM that cannot run a guest
}

local by_errno = {
  ENOENT = M.status.missing_input, EACCES = M.status.permission, EPERM = M.status.permission,
  ENOSPC = M.status.cannot_create, EDQUOT = M.status.cannot_create, EROFS = M.status.cannot_create,
  EAGAIN = M.status.temporary, EBUSY = M.status.temporary, ETIMEDOUT = M.status.temporary,
  EEXIST = M.status.temporary, ECONNREFUSED = M.status.unavailable, EINVAL = M.status.usage, EPROTO = M.status.data,
  EBADMSG = M.status.data, ESTALE = M.status.data, -- a page map or working set: damaged, of another memory file
}

-- Linux's numbers of the names that this layer raises itself (the same on every architecture that fcvm knows).
local numbers = { EPERM = 1, ENOENT = 2, ESRCH = 3, EINTR = 4, EIO = 5, EAGAIN = 11, ENOMEM = 12, EACCES = 13, EBUSY = 16,
  EEXIST = 17, ENODEV = 19, ENOTDIR = 20, EINVAL = 22, EFBIG = 27, ENOSPC = 28, EPIPE = 32, EPROTO = 71, ENOTSUP = 95,
  EADDRNOTAVAIL = 99, ETIMEDOUT = 110, ECONNREFUSED = 111, EDQUOT = 122, ECANCELED = 125, EOWNERDEAD = 130 }

local Error = { __name = "fcvm.error" }
Error.__index = Error

function Error:__tostring()
  local text = (self.op or "fcvm")
  if self.subject and self.subject ~= "" then text = text .. " " .. self.subject end
  text = text .. ": " .. (self.message or self.name or "failed")
  if self.hint and self.hint ~= "" then text = text .. " (" .. self.hint .. ")" end
  return text
end

local TEXT_MAX = 2048 -- bytes of each text: foreign ones may be of any length

--- Makes an error without raising it. Takes the fields above; `name` ("ENOENT") stands for `errno` and the reverse.
-- Texts are cut at 2048 bytes.
function M.new(fields)
  local err = {}
  for key, value in pairs(fields) do
    err[key] = type(value) == "string" and #value > TEXT_MAX and value:sub(1, TEXT_MAX - 3) .. "…" or value
  end
  err.errno = err.errno or numbers[err.name]
  return setmetatable(err, Error)
end

--- Raises an error made of `fields`.
function M.raise(fields)
  error(M.new(fields), 0)
end

--- Gives back all its arguments where the first is neither nil nor false; else raises the second.
function M.check(value, err, ...)
  if value ~= nil and value ~= false then return value, err, ... end
  if type(err) == "table" then error(M.new(err), 0) end
  M.raise { op = "fcvm", message = tostring(err or "failed without a reason") }
end

--- As check, for luv's `nil, "ENOENT: text", "ENOENT"`, and says what was being done.
function M.check_uv(op, subject, value, text, name, hint)
  if value ~= nil then return value end
  M.raise { op = op, subject = subject, name = name, message = tostring(text):gsub("^%u+: ", ""), hint = hint }
end

--- The error again, with `op` before its own operation and `subject` where it had none. Strings become errors.
function M.wrap(err, op, subject)
  if type(err) ~= "table" then return M.new { op = op, subject = subject, message = tostring(err) } end
  local copy = M.new(err)
  copy.op = err.op and op .. ": " .. err.op or op
  copy.subject = err.subject or subject
  return copy
end

--- The exit status that an error stands for.
function M.exit_status(err)
  if type(err) ~= "table" then return M.status.internal end
  return err.status or by_errno[err.name] or M.status.system
end

--- The known name nearest to a mistyped one, or nil: for "unknown option 'nmae' (did you mean 'name'?)".
function M.nearest(name, known)
  local best, least = nil, 3
  for _, candidate in ipairs(known) do
    local row = {}
    local above = {}
    for j = 0, #candidate do row[j] = j end
    for i = 1, #name do
      local now = { [0] = i }
      for j = 1, #candidate do
        local a, b = name:sub(i, i), candidate:sub(j, j)
        now[j] = math.min(row[j] + 1, now[j - 1] + 1, row[j - 1] + (a == b and 0 or 1))
        -- Two letters that changed places are one slip, not two.
        if i > 1 and j > 1 and a == candidate:sub(j - 1, j - 1) and b == name:sub(i - 1, i - 1) then
          now[j] = math.min(now[j], above[j - 2] + 1)
        end
      end
      above, row = row, now
    end
    if row[#candidate] < least then best, least = candidate, row[#candidate] end
  end
  return best
end

--- Checks an options table against `known` {name = type or {types}}; a wrong key or type raises, naming the nearest key.
function M.options(op, options, known)
  if type(options) ~= "table" then
    M.raise { op = op, name = "EINVAL", message = "its options are one table, not a " .. type(options) }
  end
  local names = {}
  for name in pairs(known) do names[#names + 1] = name end
  table.sort(names)
  for key, value in pairs(options) do
    local types = known[key]
    if not types then
      local near = type(key) == "string" and M.nearest(key, names)
      M.raise { op = op, name = "EINVAL", message = ("unknown option '%s'"):format(tostring(key)),
        hint = near and ("did you mean '%s'?"):format(near) or "known: " .. table.concat(names, ", ") }
    end
    local kind = math.type(value) or type(value)
    local fits = false
    for wanted in types:gmatch("%a+") do
      fits = fits or wanted == kind or wanted == type(value) or wanted == "any"
    end
    if not fits then
      M.raise { op = op, name = "EINVAL", message = ("option '%s' must be %s, not a %s"):format(key, types, kind) }
    end
  end
  return options
end

return M
