-- SPDX-License-Identifier: Apache-2.0
--- What specs on real Firecracker share: what is left of VMs and servers, and their end where a test failed.
local assert = require "luassert"
local cli = require "spec.support.cli"
local fcvm = require "fcvm"
local paths = require "fcvm.paths"
local uv = require "luv"

local M = {}

--- The living records.
function M.records()
  local living = fcvm.state.scan()
  return living
end

--- What is left of a VM or a server, by its id: paths.
function M.left_of(id)
  local left = {}
  for _, path in ipairs { paths.state() .. "/" .. id .. ".json", paths.disks() .. "/" .. id, paths.serves() .. "/" .. id,
    paths.run() .. "/netns/" .. id, "/sys/fs/cgroup/fcvm/" .. id, paths.snapshots() .. "/.new-" .. id } do
    if uv.fs_lstat(path) then left[#left + 1] = path end
  end
  return left
end

local function entries(directory, pattern)
  local list = {}
  local scan = uv.fs_scandir(directory)
  while scan do
    local name = uv.fs_scandir_next(scan)
    if not name then break end
    if name:match(pattern) then list[#list + 1] = directory .. "/" .. name end
  end
  return list
end

--- For after_each, in a task: fails where the test left something, and ends it so that the next test has none of it.
function M.assert_nothing_left()
  local left, names = M.records(), {}
  for i, record in ipairs(left) do
    names[i] = record.name
    uv.kill(record.pid, 9)
  end
  if #left > 0 then
    cli.eventually("what was left to end", function() return #M.records() == 0 end, 10)
    cli.run { "sweep" }
  end
  assert.same({}, names)
  -- The kernel takes a link away with its namespace, by itself and a moment later.
  pcall(cli.eventually, "links to go", function() return #entries("/sys/class/net", "^fcv%d") == 0 end, 5)
  assert.same({}, entries("/sys/class/net", "^fcv%d"))
  assert.same({}, entries(paths.disks(), "."))
  assert.same({}, entries(paths.serves(), "."))
  assert.same({}, entries(paths.snapshots(), "^%."))
  assert.same({}, entries(paths.run() .. "/netns", "."))
end

return M
