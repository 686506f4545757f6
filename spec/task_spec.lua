-- SPDX-License-Identifier: Apache-2.0
describe("tasks", function()
  local task = require "fcvm.task"

  it("wait and give results", function()
    assert.same({ 1, 2 }, { task.main(function()
      task.sleep(0.001)
      return 1, 2
    end) })
  end)

  it("raise what their function raised", function()
    assert.has_error(function() task.main(function() error("boom", 0) end) end, "boom")
  end)

  it("cannot wait outside of a task", function()
    assert.has_error(function() task.sleep(0) end)
  end)

  it("run what was deferred, newest first, on return and on error", function()
    for _, fails in ipairs { false, true } do
      local order = {}
      pcall(task.main, function()
        task.defer(function() order[#order + 1] = "first" end)
        task.defer(function()
          task.sleep(0.001)
          order[#order + 1] = "second"
        end)
        if fails then error("boom", 0) end
      end)
      assert.same({ "second", "first" }, order)
    end
  end)

  it("run a deferred function once where it is called early", function()
    local count = 0
    task.main(function()
      local undo = task.defer(function() count = count + 1 end)
      undo()
    end)
    assert.equal(1, count)
  end)

  it("cancel what a scope spawned at its end, and wait for its clean-up", function()
    local cleaned
    task.main(function()
      task.scope(function()
        task.spawn(function()
          task.defer(function()
            task.sleep(0.001)
            cleaned = true
          end)
          task.sleep(100)
        end)
      end)
      assert.is_true(cleaned)
    end)
  end)

  it("are cancelled where they wait, with an error that says so", function()
    task.main(function()
      local child = task.spawn(task.sleep, 100)
      child:cancel()
      local ok, err = pcall(child.join, child)
      assert.is_false(ok)
      assert.is_true(err.cancelled)
    end)
  end)

  it("end at their time limit, which says what was waited for", function()
    task.main(function()
      local ok, err = pcall(task.timeout, 0.01, "Godot", task.sleep, 100)
      assert.is_false(ok)
      assert.equal("ETIMEDOUT", err.name)
      assert.matches("waited 0.01 s for Godot", tostring(err), 1, true)
    end)
  end)

  it("pass a time limit where they end earlier", function()
    task.main(function()
      assert.equal(7, task.timeout(10, "it", function()
        task.sleep(0.001)
        return 7
      end))
    end)
  end)

  describe("parallel", function()
    it("gives results in order, within its limit", function()
      task.main(function()
        local running, most = 0, 0
        local results = task.parallel(6, function(i)
          running = running + 1
          most = math.max(most, running)
          task.sleep(0.001 * (7 - i))
          running = running - 1
          return i * i
        end, { limit = 2 })
        assert.same({ 1, 4, 9, 16, 25, 36 }, results)
        assert.equal(2, most)
      end)
    end)

    it("cancels the others at the first error", function()
      task.main(function()
        local cancelled
        local ok, err = pcall(task.parallel, 2, function(i)
          if i == 2 then error("two", 0) end
          task.defer(function() cancelled = true end)
          task.sleep(100)
        end)
        assert.is_false(ok)
        assert.equal("two", err)
        assert.is_true(cancelled)
      end)
    end)

    it("ends what a branch started, but for what it returns", function()
      task.main(function()
        local log = {}
        local function thing(name)
          local self = setmetatable({}, { __adopt = function(self, scope) self.move(scope) end })
          self.move = select(2, task.defer(function() log[#log + 1] = name end))
          return self
        end
        task.scope(function()
          local kept = task.parallel(2, function(i)
            thing("dropped " .. i)
            return thing("kept " .. i)
          end)
          assert.equal(2, #kept)
          task.first(1, function() return thing "first" end)
          table.sort(log)
          assert.same({ "dropped 1", "dropped 2" }, log)
        end)
        assert.same({ "dropped 1", "dropped 2", "first", "kept 2", "kept 1" }, log)
      end)
    end)

    it("collects errors where asked to", function()
      task.main(function()
        local results = task.parallel({ "a", "b" }, function(item)
          if item == "b" then error("bad", 0) end
          return item
        end, { on_error = "collect" })
        assert.same({ { ok = true, value = "a" }, { ok = false, error = "bad" } }, results)
      end)
    end)
  end)

  describe("first", function()
    it("gives the first success and cancels the others", function()
      task.main(function()
        local cleaned = 0
        assert.equal("quick", task.first({ "slow", "quick" }, function(name)
          task.defer(function() cleaned = cleaned + 1 end)
          task.sleep(name == "slow" and 100 or 0.001)
          return name
        end))
        assert.equal(2, cleaned)
      end)
    end)

    it("raises an error where none succeeds", function()
      assert.has_error(function()
        task.main(function() task.first(2, function(i) error("no " .. i, 0) end) end)
      end, "no 2")
    end)
  end)
end)
