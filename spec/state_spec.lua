-- SPDX-License-Identifier: Apache-2.0
describe("state records", function()
  local core = require "fcvm.core"
  local json = require "fcvm.json"
  local paths = require "fcvm.paths"
  local process = require "fcvm.process"
  local state = require "fcvm.state"
  local task = require "fcvm.task"
  local uv = require "luv"

  local before, directory
  before_each(function()
    before = paths.data()
    directory = uv.fs_mkdtemp "/tmp/fcvm-state.XXXXXX"
    paths.set_data(directory)
  end)
  after_each(function()
    task.main(function() process.run { "rm", "-rf", directory } end)
    paths.set_data(before)
  end)

  local function test(name, body) it(name, function() task.main(body) end) end
  local function any() return true end
  local function claim(name) return state.claim({ name = name, process_type = "vm", image = "x" }, any) end

  -- A record of a process that has ended.
  local function dead(name)
    local record = claim(name)
    record.start_time = record.start_time + 1
    state.write(record)
    return record
  end

  local function put(id, text)
    local file = assert(io.open(paths.state() .. "/" .. id .. ".json", "w"))
    file:write(text)
    file:close()
  end

  test("are found by name, id and PID", function()
    local record = claim "web"
    assert.is_true(state.is_id(record.vm_id))
    for _, key in ipairs { "web", record.vm_id, record.pid, tostring(record.pid) } do
      assert.equal(record.vm_id, state.find(key).vm_id)
    end
    state.remove(record.vm_id)
    local ok, err = pcall(state.find, "web")
    assert.is_false(ok)
    assert.equal("ENOENT", err.name)
  end)

  test("name the VM that was meant", function()
    claim "web"
    local _, err = pcall(state.find, "wbe")
    assert.matches("did you mean 'web'?", tostring(err), 1, true)
  end)

  test("have names that are unique among the living alone", function()
    dead "web"
    claim "web"
    local ok, err = pcall(claim, "web")
    assert.is_false(ok)
    assert.equal("EEXIST", err.name)
  end)

  test("refuse what is no name", function()
    for _, name in ipairs { "", "-x", "a/b", "..", "a b", ("x"):rep(64), "a\n" } do
      local ok, err = pcall(claim, name)
      assert.is_false(ok, name)
      assert.equal("EINVAL", err.name)
    end
  end)

  test("have slots of their own, which the host does not use", function()
    local a, b = claim "a", claim "b"
    assert.are_not.equal(a.slot, b.slot)
    local asked = {}
    local c = state.claim({ name = "c", process_type = "vm" }, function(slot)
      asked[#asked + 1] = slot
      return #asked == 3
    end)
    assert.equal(asked[3], c.slot)
  end)

  test("of the dead are no VMs, and are swept with what they own", function()
    local record, living = dead "gone", claim "web"
    local alive, ended = state.scan()
    assert.equal(1, #alive)
    assert.equal(1, #ended)
    local released = {}
    local swept = state.sweep(function(r) released[#released + 1] = r.vm_id end)
    assert.same({ record.vm_id }, swept)
    assert.same({ record.vm_id }, released)
    alive, ended = state.scan()
    assert.equal(living.vm_id, alive[1].vm_id)
    assert.equal(0, #ended)
  end)

  test("stay where what they own could not be freed", function()
    local record = dead "gone"
    local swept, failed = state.sweep(function() error("busy", 0) end)
    assert.same({}, swept)
    assert.equal(record.vm_id, failed[1].id)
    assert.is_truthy(uv.fs_stat(paths.state() .. "/" .. record.vm_id .. ".json"))
  end)

  test("that make no sense are reported, set aside by a sweep, and never fatal", function()
    local living = claim "web"
    local good = json.encode(living)
    local bad = { ["vm-000000000001"] = "", ["vm-000000000002"] = good:sub(1, 40), ["vm-000000000003"] = "[1]",
      ["vm-000000000004"] = good, -- another VM's
      ["vm-000000000005"] = ("["):rep(100000), ["vm-000000000006"] = ("x"):rep(300 << 10),
      ["vm-000000000007"] = '{"vm_id":"vm-000000000007","pid":"1"}' }
    for id, text in pairs(bad) do put(id, text) end
    put("other", "not a record at all")
    local alive, _, corrupt = state.scan()
    assert.equal(1, #alive)
    assert.equal(7, #corrupt)
    local released = {}
    state.sweep(function(record) released[record.vm_id] = true end)
    for id in pairs(bad) do
      assert.is_true(released[id])
      assert.is_truthy(uv.fs_stat(paths.state() .. "/corrupt/" .. id .. ".json"))
    end
    _, _, corrupt = state.scan()
    assert.same({}, corrupt)
  end)

  test("are claimed one after the other", function()
    local lock = assert(core.proc.lock(paths.ensure(paths.state()) .. "/.lock"))
    local waiting = task.spawn(claim, "web")
    task.sleep(0.03)
    assert.is_nil(waiting.done)
    lock:close()
    assert.equal("web", waiting:join().name)
  end)
end)
