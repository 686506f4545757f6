-- SPDX-License-Identifier: Apache-2.0
--- A VM's network: made and removed by netlink, against the same by ip and nft, turn about; and fifty. Needs root, and no KVM:
-- run it in a network namespace of its own (tests/bench/net/run). Ratios hold, milliseconds do not.
local fcvm = require "fcvm"
local json = require "fcvm.json"
local network = require "fcvm.network"

local args = fcvm.args {
  rounds = { "integer", "of each, one after the other", default = 15 },
  commands = { "string", "the script of commands", default = "tests/bench/net/commands" },
}

local function record(i)
  return { vm_id = ("vm-%012x"):format(i), slot = 8000 + i, pid = 1, network_mode = "bridged",
    dns = { servers = json.array { "10.0.0.53" } } }
end

local function timed(fn)
  local began = fcvm.now()
  fn()
  return fcvm.now() - began
end

local function make(one)
  network.create(one)
  network.furnish(one)
end

local function median(list)
  table.sort(list)
  return list[(#list + 1) // 2]
end

local function by_commands(i, ...) return fcvm.process.run { args.commands, tostring(i), ... }.stdout end

local times = { made = {}, removed = {}, made_c = {}, removed_c = {}, bare = {} }
-- The kernel ends namespaces in the background; the next measurement is not to wait for the last one's.
local function settle() fcvm.sleep(0.3) end

for round = 1, args.rounds do
  local one = record(round)
  settle()
  times.made[round] = timed(function() make(one) end)
  times.removed[round] = timed(function() network.remove(one) end)
  settle()
  local made, removed = by_commands(round):match "(%d+) (%d+)"
  times.made_c[round], times.removed_c[round] = tonumber(made) / 1e6, tonumber(removed) / 1e6
  times.bare[round] = timed(function()
    local path = fcvm.paths.run() .. "/netns/bench"
    fcvm.errors.check(fcvm.core.net.namespace_create(path))
    fcvm.errors.check(fcvm.core.net.namespace_remove(path))
  end)
end

-- Fifty: ours one after the other in one process, as the lock of the state directory would have it; the commands' all at once.
settle()
local fifty = timed(function()
  local all = {}
  for i = 1, 50 do
    all[i] = record(100 + i)
    make(all[i])
  end
  for i = 1, 50 do network.remove(all[i]) end
end)
settle()
local fifty_c = timed(function()
  fcvm.parallel(50, function(i) by_commands(100 + i, "quiet") end)
end)

local rows = {}
local function row(what, ours, commands)
  rows[#rows + 1] = { what = what, ours_ms = ours * 1e3, commands_ms = commands and commands * 1e3,
    ratio = commands and ours / commands }
end
row("a bare namespace, made and removed", median(times.bare))
row("made", median(times.made), median(times.made_c))
row("removed", median(times.removed), median(times.removed_c))
row("fifty made and removed", fifty, fifty_c)
fcvm.report { title = "net", rows = rows, columns = { "what", "ours_ms", "commands_ms", "ratio" } }
