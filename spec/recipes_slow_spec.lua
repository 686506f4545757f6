-- SPDX-License-Identifier: Apache-2.0
-- The recipes over clones, each as its user runs it, on real Firecracker: `make test-long`.
describe("#kvm #slow recipes:", function()
  local cli = require "spec.support.cli"
  local task = require "fcvm.task"
  local vms = require "spec.support.vms"

  local tools = "oci:" .. cli.images .. "/tools"

  local function test(name, body) it(name, function() task.main(body) end) end

  after_each(function() task.main(vms.assert_nothing_left) end)

  local function recipe(status, options)
    table.insert(options, 1, "recipe")
    table.insert(options, 2, "run")
    options.timeout = 600
    local result = cli.run(options)
    assert.equal(status, result.status, result.stderr)
    return result.stdout
  end

  test("race: the first good answer wins, one that fails does not, and the slow ones vanish", function()
    assert.equal("quick\n", recipe(0, { "race", "--image", tools, "/bin/sleep 300; echo slow", "echo wrong; exit 3",
      "/bin/sleep 1; echo quick" }))
  end)

  test("ci-matrix: each shard runs in a clone of what was prepared, and one that fails is the job's failure", function()
    local test_of = { "ci-matrix", "--image", tools, "--shards", "3", "--prepare", "echo made > /made", "--test",
      "read made < /made; echo $made $SHARD of $SHARDS; test $SHARD != 2", "--json" }
    local out = recipe(1, test_of)
    for i = 1, 3 do assert.matches(("made %d of 3\n"):format(i), out, 1, true) end
    local report = require("fcvm.json").decode(out:match "(%b{})%s*$")
    local statuses = {}
    for i, row in ipairs(report.rows) do statuses[i] = row.status end
    assert.same({ 0, 1, 0 }, statuses)
  end)

  test("time-travel: a step that fails is undone with all that it did, and its next way goes on", function()
    assert.equal("kept 1\n", recipe(0, { "time-travel", "--image", tools, "echo 1 > /kept",
      "echo 2 > /kept; /bin/false OR read kept < /kept; echo kept $kept" }))
  end)

  test("time-travel: where no way leads on it says so", function()
    assert.equal("", recipe(1, { "time-travel", "--image", tools, "/bin/false" }))
  end)

  test("stress: ten at once, three times, and nothing is left", function()
    local result = cli.run { "test", "stress", "--count", "10", "--rounds", "3", "--json", timeout = 1200 }
    assert.equal(0, result.status, result.stderr)
    assert.matches("30 of 30 were healthy and answered (100.0 %); nothing is left", result.stderr, 1, true)
  end)
end)
