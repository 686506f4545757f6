-- SPDX-License-Identifier: Apache-2.0
--- Names in an egress policy: what a guest asks and is answered, as the relay (lua/fcvm/dns_relay.lua) passes it on.
--
-- Of a list, the guest may ask for its names alone, each as it is written; another one does not exist for it, since a question
-- may carry anything anywhere. The addresses of an answer are put into the sets of its name before the guest has it. Of a
-- function's policy all may be asked, and is remembered for who decides.
local core = require "fcvm.core"
local dns_message = require "fcvm.dns_message"
local egress = require "fcvm.egress"
local errors = require "fcvm.errors"
local log = require "fcvm.log"
local task = require "fcvm.task"

local M = {}

local KNOWN_MAX = 4096 -- addresses whose name is remembered

local Names = { __name = "fcvm.egress_names" }
Names.__index = Names

--- Whether a policy needs to see what its guest asks.
function M.needed(policy) return policy == "ask" or #egress.names(policy) > 0 end

--- For the policy of a VM whose table `name` is in the namespace at `path`, in the current scope.
function M.new(policy, path, name)
  local self = setmetatable({ table = name, known = {}, count = 0 }, Names)
  if policy == "ask" then return self end
  self.handle = errors.check(core.net.open(path))
  task.defer(function() self.handle:close() end)
  self.sets = {}
  for _, entry in ipairs(egress.names(policy)) do
    self.sets[entry.name] = self.sets[entry.name] or {}
    table.insert(self.sets[entry.name], entry.set)
  end
  return self
end

--- What to answer instead of passing a question on; nil where it may be passed on.
function Names:refuse(question)
  if not self.sets or self.sets[dns_message.question(question) or ""] then return nil end
  return dns_message.refusal(question)
end

local function remember(self, address, name)
  if not self.known[address] then self.count = self.count + 1 end
  if self.count > KNOWN_MAX then self.known, self.count = {}, 1 end
  self.known[address] = name
end

--- Takes note of an answer. Raises nothing: it is called in no task.
function Names:learn(answer)
  local name, addresses = dns_message.addresses(answer)
  local sets, items = self.sets and self.sets[name or ""], {}
  for i, address in ipairs(addresses) do
    items[i] = { address = address }
    remember(self, address, name)
  end
  for _, set in ipairs(#items > 0 and sets or {}) do
    local ok, err = self.handle:set_add(self.table, set, items)
    -- What is full begins anew: its names are asked for again.
    if not ok and err.name == "ENFILE" then ok, err = self.handle:set_add(self.table, set, items, { replace = true }) end
    if not ok then log.warn("egress: the addresses of %s are not allowed: %s", name, tostring(errors.new(err))) end
  end
end

return M
