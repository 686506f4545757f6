-- SPDX-License-Identifier: Apache-2.0
-- Built-in recipes over an API that answers at once: what they make of it.
describe("the recipe", function()
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
    local report
    local stages = { network = 0.4, image = 0.1, disk = 0.5, spawn = 0.5, boot = 0.7, agent = 2, container = 5, healthy = 6 }
    local vm = { state = function() return { stages = stages } end,
      wait = function() end, stop = function() end, request = function() return { status = 200, body = "hello" } end }
    local out = run("demo", { run = function() return vm end, report = function(what) report = what end })
    assert.equal(8, #report.rows)
    assert.equal("image", report.rows[1].stage)
    assert.equal("network", report.rows[2].stage)
    local sum = 0
    for i, row in ipairs(report.rows) do
      assert.is_true(row.took >= 0, row.stage)
      sum = sum + row.took
      assert.is_true(math.abs(sum - row.at) < 1e-9, i)
    end
    assert.matches("HTTP 200", out[#out], 1, true)
    assert.matches("hello", out[#out], 1, true)
  end)
end)
