-- SPDX-License-Identifier: Apache-2.0
-- What a recipe shows: tables, JSON, charts and bars.
describe("a report", function()
  local args = require "fcvm.args"
  local cli = require "spec.support.cli"
  local json = require "fcvm.json"
  local plot = require "fcvm.plot"
  local process = require "fcvm.process"
  local task = require "fcvm.task"
  local uv = require "luv"

  local directory
  before_each(function() directory = uv.fs_mkdtemp "/tmp/fcvm-report-XXXXXX" end)
  after_each(function() task.main(function() process.run { "rm", "-rf", "--", directory } end) end)

  local function test(name, body) it(name, function() task.main(body) end) end

  local function write(path, text)
    local file <close> = assert(io.open(path, "w"))
    file:write(text)
    return path
  end

  local function read(path)
    local file <close> = assert(io.open(path))
    return file:read "a"
  end

  local RECIPE = [[
local fcvm = require "fcvm"
fcvm.args {}
local bar = fcvm.progress("clones", 3)
for _ = 1, 3 do bar:step() end
fcvm.report { title = "fleet", columns = { "name", "seconds", "private", "note" }, rows = {
  { name = "web1", seconds = 0.25, private = 28000000, note = "a" },
  { name = "web<2>", seconds = 12.5, private = 2000000 },
  { name = "w\27[2Jx", seconds = 3, private = 0, note = "é" } } }
]]

  local function run(...)
    return cli.run { "recipe", "run", write(directory .. "/r.lua", RECIPE), ... }
  end

  -- An XML parser's view; the number of nodes that an XPath finds.
  local function count(path, element)
    local xpath = ("count(//*[local-name()='%s'])"):format(element)
    return tonumber(process.run({ "xmllint", "--noout", "--xpath", xpath, path }).stdout)
  end

  test("is a table whose numbers stand to the right and in which nothing drives the terminal", function()
    local result = run()
    assert.equal(0, result.status, result.stderr)
    assert.equal("NAME       SECONDS   PRIVATE  NOTE\n" ..
      "web1         0.250  28000000  a\nweb<2>      12.500   2000000  -\nw\\x1b[2Jx        3         0  é\n", result.stdout)
    assert.matches("^clones: done in %d+%.%d s\n$", result.stderr)
  end)

  test("is JSON where that is asked for, with its columns in order", function()
    local value = assert(json.decode(run("--json").stdout, "the report"))
    assert.same({ "name", "seconds", "private", "note" }, value.columns)
    assert.equal("fleet", value.title)
    assert.equal(12.5, value.rows[2].seconds)
    assert.is_nil(value.rows[2].note)
  end)

  test("is a chart in a file beside the table: a panel for each column of numbers, a bar for each row", function()
    local path = directory .. "/out.svg"
    local result = run("--plot", path)
    assert.equal(0, result.status, result.stderr)
    assert.matches("^NAME", result.stdout)
    assert.matches("the chart is in " .. path, result.stderr, 1, true)
    assert.equal(1 + 2 * 3, count(path, "rect"))
    local text = read(path)
    assert.matches("web&lt;2&gt;", text, 1, true)
    assert.not_matches("\27", text)
    assert.matches("<title>web1: 28000000</title>", text, 1, true)
    assert.equal("{", run("--plot", path, "--json").stdout:sub(1, 1))
  end)

  test("whose file cannot be written says so", function()
    local result = run("--plot", directory .. "/none/out.svg")
    assert.equal(66, result.status)
    assert.matches("write chart " .. directory .. "/none/out.svg", result.stderr, 1, true)
    result = cli.run { "recipe", "run", directory .. "/r.lua", "--plot", "here.svg", cwd = directory }
    assert.equal(0, result.status, result.stderr)
    assert.matches("^<svg ", read(directory .. "/here.svg"))
  end)

  test("without columns or rows is refused", function()
    local report = require "fcvm.report"
    for _, what in ipairs { {}, { columns = { "a" } }, { rows = {} }, { rows = {}, columns = {}, lines = {} } } do
      local ok, err = pcall(report, what)
      assert.is_false(ok)
      assert.equal("EINVAL", err.name)
    end
  end)

  describe("chart", function()
    local function svg(what) return write(directory .. "/c.svg", plot.svg(what)) and directory .. "/c.svg" end

    local function places(path, attribute)
      local list = {}
      for value in read(path):gmatch(" " .. attribute .. '="([^"]*)"') do list[#list + 1] = tonumber(value) end
      return list
    end

    test("has bars as high as their values", function()
      local path = svg { columns = { "n", "v" }, rows = { { n = "a", v = 10 }, { n = "b", v = 5 }, { n = "c", v = 0 } } }
      local heights = {}
      for height in read(path):gmatch '<rect x="[%d.]+" y="[%d.]+" width="[%d.]+" height="([%d.]+)"' do
        heights[#heights + 1] = tonumber(height)
      end
      assert.same({ 170, 85, 0.5 }, heights)
    end)

    test("goes below zero, and leaves out what is no number or not there", function()
      local path = svg { columns = { "v", "n" }, rows = { { v = -3, n = "a" }, { n = "b" }, { v = 0 / 0, n = "c" },
        { v = 1 / 0, n = "d" },
        { v = 7, n = "e" } } }
      assert.equal(1 + 2, count(path, "rect"))
      assert.matches(">-4<", read(path), 1, true)
      for _, y in ipairs(places(path, "y")) do assert.is_true(y >= 0 and y < 400, y) end
    end)

    test("has points where there are many rows, and names only as many as there is room for", function()
      local rows = {}
      for i = 1, 500 do rows[i] = { i = "row " .. i, v = math.sin(i / 20) * 1e6 } end
      local path = svg { columns = { "i", "v" }, rows = rows, title = "many" }
      assert.equal(500, count(path, "circle"))
      assert.is_true(count(path, "text") < 60)
      assert.matches("1 M", read(path), 1, true)
    end)

    test("is well formed whatever it is given", function()
      math.randomseed(3)
      for _ = 1, 40 do
        local text = {}
        for i = 1, 40 do text[i] = math.random(3) == 1 and ("<&>\"'"):sub(i % 5 + 1, i % 5 + 1)
          or string.char(math.random(0, 255)) end
        local name = table.concat(text)
        local path = svg { title = name, columns = { name, "v" }, rows = {
          { [name] = name, v = math.random() * 10 ^ math.random(-200, 200) },
          { [name] = "\u{ffff}\u{d800}", v = math.maxinteger } } }
        assert.equal(1, count(path, "svg"))
      end
    end)

    test("of nothing that can be drawn is an error", function()
      for _, rows in ipairs { {}, { { v = "x" } }, { { v = 1 / 0 } }, { { v = 1e308 }, { v = -1e308 } }, { { v = 5e-324 } } } do
        local ok, err = pcall(plot.svg, { columns = { "v" }, rows = rows })
        assert.is_false(ok)
        assert.equal("EINVAL", err.name)
      end
    end)

    it("has steps that people count in", function()
      for range, step in pairs { [1] = 0.2, [7] = 2, [10] = 2, [11] = 5, [99] = 20, [0.003] = 0.001, [26] = 10 } do
        assert.is_true(math.abs(plot.step(range, 5) / step - 1) < 1e-9, range .. ": " .. plot.step(range, 5))
      end
    end)
  end)

  describe("bar", function()
    -- The recipe on a terminal of `columns`: all that the terminal got.
    local function on_terminal(columns, text)
      local path = write(directory .. "/t.lua", text)
      local command = ("stty cols %d; exec '%s' recipe run '%s'"):format(columns, cli.binary, path)
      return process.run { "script", "-qec", command, "/dev/null", timeout = 30 }.stdout
    end

    test("is drawn on a terminal, makes room for what is printed, and ends in a line", function()
      local out = on_terminal(100, (RECIPE:gsub("bar:step%(%)", "fcvm.sleep(0.3) bar:step()")))
      assert.matches("clones %[#########%.+%]  33 %%  1 of 3", out)
      assert.matches("\r\27%[Kclones: done in [%d.]+ s\r\nNAME", out)
    end)

    test("that is still there makes room for the report, and goes with its scope", function()
      local out = on_terminal(100, (RECIPE:gsub("1, 3 do", "1, 2 do")))
      assert.matches("\r\27%[KNAME", out)
      assert.matches("é\r\n\r\27%[Kclones[^\n]*\r\27%[K$", out)
    end)

    test("is never wider than the terminal", function()
      local out = on_terminal(30, RECIPE)
      local seen
      for line in out:gmatch "\r\27%[K(clones %[[^\r\n]*)" do
        seen = true
        assert.is_true(#line < 30, line)
      end
      assert.is_true(seen)
    end)
  end)

  it("has no --plot where there is nothing to plot", function()
    args.argv, args.program = { "--plot", "x" }, "fcvm test"
    assert.is_false((pcall(args.read, {}, { report = "json" })))
    assert.is_false((pcall(args.read, {}, { report = false })))
    args.read({}, {})
    assert.equal("x", args.plot)
    args.argv = {}
    args.read({}, {})
    assert.is_nil(args.plot)
  end)
end)
