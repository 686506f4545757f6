-- SPDX-License-Identifier: Apache-2.0
--- A tree of one VM's moments: runs commands one after the other, and where one fails, goes back and tries another way.
local fcvm = require "fcvm"

local args = fcvm.args({
  image = { "string", "image to run" },
  plan = { "string", "a step, by /bin/sh; further ways for it after the word OR",
    positional = 1, many = true, metavar = "STEP" },
  mem = { "size", "memory of a VM", default = 256 << 20 },
}, { report = false, description = "Runs steps in a VM; one that fails is undone with all that it did, and its next way tried." })

local vm = fcvm.run { image = args.image, name = "moment-0", mem = args.mem, cpu = 1,
  cmd = { "/bin/sh", "-c", "sleep 2000000" } }

local function ways_of(step)
  local ways = {}
  for way in (step .. " OR "):gmatch "(.-) OR " do ways[#ways + 1] = way end
  return ways
end

for number, step in ipairs(args.plan) do
  local moment = vm:snapshot { tag = "moment-" .. number }
  fcvm.defer(function() moment:remove() end)
  local done
  for i, way in ipairs(ways_of(step)) do
    if i > 1 then
      vm:kill()
      vm = moment:clone { name = ("moment-%d-%d"):format(number, i) }
    end
    local result = vm:exec { "/bin/sh", "-c", way }
    io.stdout:write(result.stdout)
    done = result.status == 0
    fcvm.log.info("step %d, way %d: %s ended with %d", number, i, way, result.status)
    if done then break end
  end
  if not done then
    fcvm.log.error("step %d: no way led on", number)
    return 1
  end
end
