-- SPDX-License-Identifier: Apache-2.0
-- Built-in recipes over an API that answers at once: what they make of it.
describe("the recipe", function()
  local task = require "fcvm.task"

  -- Runs recipes/NAME.lua over `api`, with all of fcvm behind it; returns what it printed and what it returned.
  local function run(name, api, argv)
    local real, args = package.loaded.fcvm, require "fcvm.args"
    local out = {}
    local env = setmetatable({ print = function(...) out[#out + 1] = table.concat({ ... }, "\t") end }, { __index = _G })
    package.loaded.fcvm = setmetatable(api, { __index = require "fcvm" })
    args.argv, args.program = argv or {}, "fcvm " .. name
    local ok, result = pcall(assert(loadfile("recipes/" .. name .. ".lua", "t", env)))
    package.loaded.fcvm = real
    assert(ok, tostring(result))
    return out, result
  end

  it("demo prints the stages in the order in which they were reached", function()
    local reports = {}
    local stages = { network = 0.4, image = 0.1, disk = 0.5, spawn = 0.5, boot = 0.7, agent = 2, container = 5, healthy = 6 }
    local vm = { state = function() return { stages = stages } end,
      stats = function() return { memory = { private = 1 << 20 } } end, memory = "file",
      wait = function() end, stop = function() end, request = function() return { status = 200, body = "hello" } end }
    local server = { clone = function() return vm end, stop = function() end }
    local snapshot = { paused = 0.1, serve = function() return server end, remove = function() end }
    vm.snapshot = function() return snapshot end
    local out = task.main(function()
      return (run("demo", { run = function() return vm end, report = function(what) reports[#reports + 1] = what end }))
    end)
    local report = reports[1]
    assert.equal(8, #report.rows)
    assert.equal("image", report.rows[1].stage)
    assert.equal("network", report.rows[2].stage)
    local sum = 0
    for i, row in ipairs(report.rows) do
      assert.is_true(row.took >= 0, row.stage)
      sum = sum + row.took
      assert.is_true(math.abs(sum - row.at) < 1e-9, i)
    end
    assert.matches("HTTP 200", out[2], 1, true)
    assert.matches("hello", out[2], 1, true)
    assert.equal(4, #reports[2].rows)
    for _, row in ipairs(reports[2].rows) do assert.equal(200, row.http) end
  end)
end)
