-- SPDX-License-Identifier: Apache-2.0
--- What every suite has around each test: one that leaves a descriptor, a child, a namespace or another working
-- directory behind fails, whatever it was about.
local busted = require "busted"
local uv = require "luv"

local function names(path)
  local list = {}
  local scan = uv.fs_scandir(path)
  while scan do
    local name = uv.fs_scandir_next(scan)
    if not name then break end
    list[#list + 1] = name
  end
  return list
end

-- Descriptors by what they refer to; the loop's own and what the scan itself holds come and go without a test's doing.
local function descriptors()
  local count, kinds = 0, {}
  for _, fd in ipairs(names "/proc/self/fd") do
    local target = uv.fs_readlink("/proc/self/fd/" .. fd)
    if target and not target:match "^/proc/%d+/fd$" then
      count = count + 1
      kinds[#kinds + 1] = fd .. "=" .. target
    end
  end
  return count, kinds
end

local function children()
  local file = io.open(("/proc/self/task/%d/children"):format(uv.os_getpid()))
  local text = file and file:read "a" or ""
  if file then file:close() end
  return text
end

local function snapshot()
  collectgarbage()
  collectgarbage()
  uv.run "nowait"
  local count, kinds = descriptors()
  return { fds = count, kinds = kinds, children = children(), cwd = uv.cwd(), namespaces = #names "/run/fcvm/netns" }
end

-- The first loop opens descriptors of its own (epoll, its wake-up, signals) that stay.
local timer = uv.new_timer()
timer:start(1, 0, function() timer:close() end)
uv.run()
-- The first stream opens libuv's spare descriptor.
local stream = uv.new_pipe(false)
stream:bind("/tmp/.fcvm-helper-" .. ("%d"):format(uv.os_getpid()))
stream:listen(1, function() end)
stream:close()
local signal = uv.new_signal()
signal:start("sigusr2", function() end)
signal:close()
uv.run "nowait"

local before
busted.subscribe({ "test", "start" }, function()
  before = snapshot()
  return nil, true
end)

busted.subscribe({ "test", "end" }, function(element, parent, status)
  if status ~= "success" or not before then return nil, true end
  local after = snapshot()
  local what
  if after.fds > before.fds then
    what = ("%d descriptors (%s)"):format(after.fds - before.fds, table.concat(after.kinds, " "))
  elseif after.children ~= before.children then
    what = "a child: " .. after.children
  elseif after.cwd ~= before.cwd then
    what = "another working directory: " .. after.cwd
  elseif after.namespaces > before.namespaces then
    what = "a network namespace"
  end
  if what then
    io.stderr:write("\n", element.name, ": this test leaves ", what, "\n")
    busted.publish({ "failure" }, element, parent, "this test leaves " .. what, nil)
  end
  return nil, true
end)
