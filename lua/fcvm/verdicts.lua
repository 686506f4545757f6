-- SPDX-License-Identifier: Apache-2.0
--- A recipe's function as a VM's egress policy: called once for each new destination, never for a packet.
--
-- The rules drop what goes to an unknown destination and keep it in the set `asked` (core/net/firewall.h). The VM's supervisor
-- looks there while somebody decides: the recipe's process, which asks over the control socket for questions and sends its
-- verdicts with the next request. They go to the sets `granted` and `refused`, where the kernel finds them from then on. With
-- the end of the connection asking ends: what is undecided is denied.
local control = require "fcvm.control"
local core = require "fcvm.core"
local errors = require "fcvm.errors"
local json = require "fcvm.json"
local log = require "fcvm.log"
local network = require "fcvm.network"
local paths = require "fcvm.paths"
local resolvers = require "fcvm.resolvers"
local task = require "fcvm.task"
local uv = require "luv"

local M = {}

local LOOK_SECONDS = 0.05
local WAIT_SECONDS = 10 -- for which a request waits for a question
local REQUEST = "egress-questions"

local function key_of(destination)
  return ("%s %s %s"):format(destination.address, destination.protocol, destination.port)
end

-- What the guest's resolver is: it is asked for before the guest uses it, since one that is not answered waits five seconds.
local RESOLVER, DNS_PORT = resolvers.guest[1], 53

local function begin(self, peer)
  if self.record.egress ~= "ask" or (self.deciding and self.deciding.ended) then
    errors.raise { op = "decide egress", subject = self.record.name, name = "EINVAL", message = self.deciding
      and "whoever decided has ended, and what is undecided stays denied" or "its egress policy is no function" }
  elseif self.deciding then
    errors.raise { op = "decide egress", subject = self.record.name, name = "EBUSY", message = "another process decides" }
  end
  local path, name = network.inside(self.record)
  local handle = errors.check(core.net.open(path))
  local deciding = { peer = peer, handle = handle, table = name, known = {}, names = self.names,
    first = { { address = RESOLVER, protocol = "udp", port = DNS_PORT } } }
  self.deciding = deciding
  peer:on_close(function()
    deciding.ended = true
    local ok, err = handle:egress_settle(name)
    if not ok then self.log:warn("%s", tostring(errors.new(err))) end
    handle:close()
  end)
  return deciding
end

local function settle(deciding, verdicts)
  local sets = { granted = {}, refused = {} }
  for _, verdict in ipairs(verdicts) do
    table.insert(sets[verdict.allow == true and "granted" or "refused"],
      { address = verdict.address, protocol = verdict.protocol, port = verdict.port })
  end
  for set, list in pairs(sets) do
    local ok, err = deciding.handle:set_add(deciding.table, set, list)
    -- What is full begins anew: what it held is asked for again.
    if not ok and err.name == "ENFILE" then ok, err = deciding.handle:set_add(deciding.table, set, list, { replace = true }) end
    errors.check(ok, err)
  end
end

-- Destinations that nobody has been asked for yet.
local function questions(deciding)
  local list, now = deciding.first, {}
  deciding.first = {}
  for _, asked in ipairs(errors.check(deciding.handle:set_list(deciding.table, "asked"))) do
    local key = key_of(asked)
    now[key] = true
    if not deciding.known[key] then
      list[#list + 1] = { address = asked.address, protocol = asked.protocol, port = asked.port,
        name = deciding.names and deciding.names.known[asked.address] }
    end
  end
  -- One that was decided stays in `asked` for a moment: it is known as long as it is there.
  deciding.known = now
  return list
end

--- The supervisor's answer to who decides: takes `arguments.verdicts` ({address=, protocol=, port=, allow=}, …) and gives the new
-- destinations to decide on, none of them after a while.
function M.ask(self, arguments, peer)
  local deciding = self.deciding
  if not deciding or deciding.peer ~= peer then deciding = begin(self, peer) end
  if type(arguments.verdicts) == "table" then settle(deciding, arguments.verdicts) end
  local ends = task.now() + WAIT_SECONDS
  while true do
    local list = questions(deciding)
    if #list > 0 or task.now() > ends then return json.array(list) end
    task.sleep(LOOK_SECONDS)
  end
end

local function decide(vm, fn, question)
  local given = { address = question.address, protocol = question.protocol, name = question.name,
    port = question.port > 0 and question.port or nil,
    resolver = question.address == RESOLVER and question.port == DNS_PORT or nil }
  local ok, allow = pcall(fn, given)
  if not ok then log.tag(vm.name):warn("egress: %s is denied: %s", key_of(question), tostring(allow)) end
  question.allow = ok and allow == true
  return question
end

local function has_ended(vm) return rawget(vm, "exit") or rawget(vm, "silent") end

local function serve(vm, fn)
  local directory = paths.vm(vm.id)
  while not uv.fs_lstat(directory .. "/" .. control.socket) do
    if has_ended(vm) then return end
    task.sleep(LOOK_SECONDS)
  end
  local connection <close> = control.connect(directory, vm.name)
  local verdicts = json.array {}
  while true do
    local list = connection:ask(REQUEST, { verdicts = verdicts }, { timeout = 3 * WAIT_SECONDS })
    verdicts = json.array {}
    for i, question in ipairs(list) do verdicts[i] = decide(vm, fn, question) end
  end
end

--- Has `fn(destination)` decide for a VM of this process as long as both live. A destination is {address=, protocol=, port=,
-- name= that the guest was given the address for, resolver= true where it is the guest's resolver}. Only true allows. The
-- function may wait as any task.
function M.serve(vm, fn)
  task.background(function()
    local ok, err = pcall(serve, vm, fn)
    -- A VM's end comes as that of its connection, a moment before its own.
    if not ok and not (type(err) == "table" and err.name == "EPIPE") and not has_ended(vm) then
      log.tag(vm.name):warn("egress: nothing more is decided, and so denied: %s", tostring(err))
    end
  end)
end

M.request = REQUEST
return M
